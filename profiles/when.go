package profiles

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// whenKey is the key of conditions.
const whenKey = "when"

// maxDepth bounds how deep a file is nested, also by anchors that refer to themselves.
const maxDepth = 50

// resolver replaces variables in one file and leaves out what does not apply.
type resolver struct {
	*variables
	f    *file
	done map[*yaml.Node]bool // an anchor may be used more than once
}

// resolve returns the content of a file as the decoder reads it.
func (v *variables) resolve(f *file) {
	r := resolver{variables: v, f: f, done: map[*yaml.Node]bool{}}
	r.walk(f.root, "", 0)
}

// blocks are the groups of keys that may be written as a list of groups, each with a condition.
var blocks = []string{"base", "base.archive", "units", "kernel", "ram", "secrets", "scripts", "keyboard", "swap"}

// isWords reports whether the items of a list are words.
func isWords(path string) bool {
	if slices.Contains([]string{"base.components", "users[].groups", "users[].authorizedKeys"}, path) {
		return true
	}
	for _, list := range wordLists {
		if list.path == path {
			return true
		}
	}
	return false
}

func (r *resolver) walk(n *yaml.Node, path string, depth int) {
	if n = deref(n); n == nil || depth > maxDepth || r.done[n] || path == "extends" {
		return
	}
	r.done[n] = true
	switch n.Kind {
	case yaml.ScalarNode:
		r.expand(n, path)
	case yaml.MappingNode:
		var kept []*yaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], deref(n.Content[i+1])
			at := dotted(path, key.Value)
			if key.Value == whenKey && path != "" || at == "vars" && value.Kind == yaml.MappingNode || !r.applies(value) {
				continue // variables are read already
			}
			if value.Kind == yaml.SequenceNode && slices.Contains(blocks, at) {
				value = r.join(value)
			}
			r.walk(value, at, depth+1)
			kept = append(kept, key, value)
		}
		n.Content = kept
	case yaml.SequenceNode:
		var kept []*yaml.Node
		for _, item := range n.Content {
			if !r.applies(item) {
				continue
			}
			words := []*yaml.Node{deref(item)}
			if isWords(path) && child(item, whenKey) != nil {
				words = r.words(deref(item))
			}
			for _, w := range words {
				r.walk(w, path+"[]", depth+1)
				kept = append(kept, w)
			}
		}
		n.Content = kept
	}
}

// words returns the words of an item with a condition: the value of its key name, or all of them.
func (r *resolver) words(item *yaml.Node) []*yaml.Node {
	names := child(item, "name")
	switch {
	case names == nil || len(item.Content) != 4:
		r.fault(item, "write: {name: WORD, when: …}", "an item with a condition has the keys name and when")
		return nil
	case names.Kind == yaml.SequenceNode:
		return names.Content
	}
	return []*yaml.Node{names}
}

// join makes one group of those of a list that apply. Lists of several are one after the other.
func (r *resolver) join(list *yaml.Node) *yaml.Node {
	one := &yaml.Node{Kind: yaml.MappingNode, Line: list.Line, Column: list.Column}
	for _, item := range list.Content {
		if item = deref(item); item.Kind != yaml.MappingNode {
			return list // the decoder reports it
		}
		if !r.applies(item) {
			continue
		}
		for i := 0; i+1 < len(item.Content); i += 2 {
			key, value := item.Content[i], item.Content[i+1]
			if key.Value == whenKey {
				continue
			}
			before := child(one, key.Value)
			switch {
			case before == nil:
				one.Content = append(one.Content, key, value)
			case before.Kind == yaml.SequenceNode && deref(value).Kind == yaml.SequenceNode:
				joined := *before
				joined.Content = append(slices.Clone(before.Content), deref(value).Content...)
				setChild(one, key.Value, &joined)
			default:
				setChild(one, key.Value, value)
			}
		}
	}
	return one
}

func setChild(n *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content[i+1] = value
		}
	}
}

// applies reports whether the condition of a group holds. A group without one applies.
func (r *resolver) applies(n *yaml.Node) bool {
	when := child(n, whenKey)
	if when == nil {
		return true
	}
	if when.Kind != yaml.MappingNode || len(when.Content) == 0 {
		r.fault(when, "write: when: {arch: arm64}, or the name of a variable with its value", "the condition is not a "+
			"group of keys")
		return true
	}
	holds := true
	for i := 0; i+1 < len(when.Content); i += 2 {
		key, want := when.Content[i], deref(when.Content[i+1])
		have, ok := r.value(key.Value)
		if !ok {
			r.fault(key, r.known(key.Value), "the profile has no variable %q", key.Value)
			continue
		}
		values := []*yaml.Node{want}
		if want.Kind == yaml.SequenceNode {
			values = want.Content
		}
		if !slices.ContainsFunc(values, func(v *yaml.Node) bool { return deref(v).Value == have }) {
			holds = false
		}
	}
	return holds
}

func (r *resolver) fault(n *yaml.Node, fix, what string, args ...any) {
	r.faults.Add(Place{File: r.f.name, Line: n.Line, Column: n.Column}, fix, what, args...)
}

// verbatim are texts in which ${NAME} stays: they are for shells, or templates.
var verbatim = []string{"files[].content", "scripts.configure[].run", "scripts.finish[].run"}

// variableRE finds ${NAME}, and $${NAME} for a text that is to stay.
var variableRE = regexp.MustCompile(`\$?\$\{[^}]*\}`)

// expand replaces the variables of a text. Profiles without variables have texts with ${…} of shells.
func (r *resolver) expand(n *yaml.Node, path string) {
	if len(r.vars) == 0 || slices.Contains(verbatim, path) || !strings.Contains(n.Value, "${") {
		return
	}
	whole := ""
	n.Value = variableRE.ReplaceAllStringFunc(n.Value, func(s string) string {
		if rest, ok := strings.CutPrefix(s, "$$"); ok {
			return "$" + rest
		}
		name := s[2 : len(s)-1]
		text, ok := r.value(name)
		if !ok {
			r.fault(n, fmt.Sprintf("%s, or write $%s for the text itself", r.known(name), s), "the profile has no variable %q",
				name)
		}
		if s == n.Value {
			whole = r.vars[name].Type
		}
		return text
	})
	if whole == TypeBool {
		n.Tag = "!!bool"
	}
}
