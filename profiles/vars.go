package profiles

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v4"

	"ingot"
	"ingot/internal/yamlfile"
)

// Var is a variable of a profile.
type Var struct {
	// What values it can have: text, number or bool. Default: what the default is.
	Type string `yaml:"type,omitempty" json:"type,omitempty" jsonschema:"enum=text,enum=number,enum=bool"`
	// Value unless a profile that extends this one or --set gives another. Without one, it must be given.
	Default *string `yaml:"default,omitempty" json:"default,omitempty"`
	// What it is for.
	Description string `yaml:"description,omitempty" json:"description,omitempty"`

	At Place `yaml:"-" json:"-"`
}

// The values of Var.Type.
const (
	TypeText   = "text"
	TypeNumber = "number"
	TypeBool   = "bool"
)

// archVar is the variable that every profile has.
const archVar = "arch"

// variables are the variables of one profile with all that it extends.
type variables struct {
	arch   string
	vars   map[string]Var
	faults *Faults
}

var varNameRE = regexp.MustCompile(`^[a-z][A-Za-z0-9_]*$`)

// variables reads the variables of all files, the later the more they count, and what was set for this run.
func (l *loader) variables(set map[string]string) *variables {
	v := &variables{arch: string(ingot.AMD64), vars: map[string]Var{}, faults: &l.faults}
	for _, f := range l.files {
		if n := child(f.root, archVar); n != nil && n.Kind == yaml.ScalarNode && n.Value != "" {
			v.arch = n.Value
		}
		if n := child(f.root, "vars"); n != nil && n.Kind == yaml.MappingNode {
			for i := 0; i+1 < len(n.Content); i += 2 {
				v.declare(f, n.Content[i], deref(n.Content[i+1]))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		v.set(name, set[name])
	}
	for _, name := range slices.Sorted(maps.Keys(v.vars)) {
		if w := v.vars[name]; w.Default == nil {
			l.faults.Add(w.At, fmt.Sprintf("give it a default, or build with --set %s=VALUE", name),
				"the variable %q has no value", name)
		}
	}
	return v
}

// declare adds a variable of one file, or another default of one that an earlier file has.
func (v *variables) declare(f *file, key, n *yaml.Node) {
	name, at := key.Value, Place{File: f.name, Line: key.Line, Column: key.Column}
	if !varNameRE.MatchString(name) || name == archVar {
		v.faults.Add(at, "write a letter, then letters, digits and underscores, and not "+archVar,
			"%q cannot be the name of a variable", name)
		return
	}
	w, known := v.vars[name]
	var own Var
	if n.Kind == yaml.ScalarNode {
		if n.Tag != "!!null" {
			own.Default = &n.Value
		}
	} else {
		group := n
		tag := ""
		if n = child(group, "default"); n != nil && n.Kind == yaml.ScalarNode {
			if tag = n.Tag; tag == "!!bool" {
				n.Tag = "!!str" // all defaults are kept as texts
			}
		}
		d := yamlfile.Decoder{File: f.name, What: "the variable " + name}
		d.DecodeNode(group, &own)
		*v.faults = append(*v.faults, d.Faults...)
		if n != nil {
			n.Tag = tag
		}
	}
	switch {
	case own.Type != "" && !slices.Contains([]string{TypeText, TypeNumber, TypeBool}, own.Type):
		v.faults.Add(at, "write text, number or bool", "unknown type %q of the variable %q", own.Type, name)
	case known && own.Type != "" && own.Type != w.Type:
		v.faults.Add(at, "leave the type out, or choose another name", "the variable %q is a %s already at %s", name,
			w.Type, w.At)
	case !known && own.Type != "":
		w.Type = own.Type
	case !known && n != nil:
		w.Type = map[string]string{"!!int": TypeNumber, "!!float": TypeNumber, "!!bool": TypeBool}[n.Tag]
	}
	w.Type = cmp.Or(w.Type, TypeText)
	replace(&w.Description, own.Description)
	w.At = at
	if own.Default != nil {
		w.Default = own.Default
		v.check(name, w, at)
	}
	v.vars[name] = w
}

// check checks the value of a variable.
func (v *variables) check(name string, w Var, at Place) {
	text := *w.Default
	switch w.Type {
	case TypeNumber:
		if _, err := strconv.ParseFloat(text, 64); err != nil {
			v.faults.Add(at, "write a number", "the variable %q is %q, not a number", name, text)
		}
	case TypeBool:
		if text != "true" && text != "false" {
			v.faults.Add(at, "write true or false", "the variable %q is %q, not true or false", name, text)
		}
	}
}

// setPlace is the place of values that are set for one run.
var setPlace = Place{File: "--set"}

func (v *variables) set(name, value string) {
	w, ok := v.vars[name]
	if !ok {
		v.faults.Add(setPlace, v.known(name), "the profile has no variable %q", name)
		return
	}
	w.Default, w.At = &value, setPlace
	v.check(name, w, setPlace)
	v.vars[name] = w
}

// known says which variables there are.
func (v *variables) known(name string) string {
	names := slices.Sorted(maps.Keys(v.vars))
	if near := yamlfile.Nearest(name, names); near != "" {
		return fmt.Sprintf("write %s", near)
	}
	if len(names) == 0 {
		return "declare it in vars"
	}
	return "variables: " + strings.Join(names, ", ")
}

// value returns the text of a variable.
func (v *variables) value(name string) (text string, ok bool) {
	if name == archVar {
		return v.arch, true
	}
	w, ok := v.vars[name]
	if ok && w.Default != nil {
		text = *w.Default
	}
	return text, ok
}

// data are the values as templates see them.
func (v *variables) data() map[string]any {
	data := map[string]any{archVar: v.arch}
	for name, w := range v.vars {
		text, _ := v.value(name)
		data[name] = text
		switch n, err := strconv.Atoi(text); {
		case w.Type == TypeBool:
			data[name] = text == "true"
		case w.Type == TypeNumber && err == nil:
			data[name] = n
		}
	}
	return data
}

// render executes a template (text/template) strictly: a name that is no variable is an error.
func render(text string, data map[string]any) (string, error) {
	t, err := template.New("line").Option("missingkey=error").Parse(text)
	if err != nil {
		return "", fmt.Errorf("reading the template: %w", templateError(err))
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return "", fmt.Errorf("executing the template: %w", templateError(err))
	}
	return b.String(), nil
}

// templateError returns an error of text/template without the words for programmers.
func templateError(err error) error {
	text := strings.TrimPrefix(err.Error(), "template: line:")
	if m := regexp.MustCompile(`map has no entry for key "([^"]*)"`).FindStringSubmatch(text); m != nil {
		line, _, _ := strings.Cut(text, ":")
		return fmt.Errorf("line %s: there is no variable %q", line, m[1])
	}
	return fmt.Errorf("line %s", text)
}

// renderFiles replaces the content of templates. Those that are in the profile's folder are rendered when
// they are opened.
func (p *Profile) renderFiles(v *variables) {
	p.data = v.data()
	for i, f := range p.Files {
		if !f.Template || f.Source != "" {
			continue
		}
		text, err := render(f.Content, p.data)
		if err != nil {
			v.faults.Add(f.At, v.known(""), "the file %q: %v", f.Path, err)
		}
		p.Files[i].Content, p.Files[i].Template = text, false
	}
}

// rendered returns the text of a template.
func (p *Profile) rendered(f File, r io.ReadCloser) (io.ReadCloser, error) {
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("reading %q of %s: %w", f.Source, f.At, err)
	}
	out, err := render(string(text), p.data)
	if err != nil {
		return nil, fmt.Errorf("%s: the file %q: %w", f.At, f.Source, err)
	}
	return io.NopCloser(strings.NewReader(out)), nil
}

// deref follows an alias.
func deref(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// child returns the value of a key; nil: there is none.
func child(n *yaml.Node, key string) *yaml.Node {
	if n = deref(n); n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return deref(n.Content[i+1])
		}
	}
	return nil
}
