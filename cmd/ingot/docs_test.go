package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"

	"ingot"
	"ingot/bootserver/config"
	"ingot/bootserver/fleet/desired"
	"ingot/profiles"
)

// TestDocs compares what documentation and help quote with the program:
// commands, flags, configuration keys, metrics, stages and texts on the console.
func TestDocs(t *testing.T) {
	r := newReference(t)
	docs := readDocs(t)
	for _, page := range slices.Sorted(maps.Keys(docs)) {
		for _, fault := range r.checkPage(docs[page]) {
			t.Errorf("%s: %s", page, fault)
		}
	}
	for path, c := range withParents(r.root) {
		for _, fault := range r.checkHelp(c) {
			t.Errorf("ingot %s --help: %s", path, fault)
		}
	}
	for _, l := range literals(t, "cmd", "bootserver", "builder", "image", "profiles", "rootfs") {
		if l.inHelp {
			continue // checked with the help of the command
		}
		for _, fault := range r.checkProse(l.text, true) {
			t.Errorf("%s: %s", l.where, fault)
		}
	}
	for _, fault := range r.checkBoot(docs["docs/BOOT.md"]) {
		t.Errorf("docs/BOOT.md: %s", fault)
	}
	for _, name := range []string{"README.md", "docs/ACCESS.md", "docs/BOOT.md", "docs/NETWORKS.md"} {
		if docs[name] == "" {
			t.Errorf("%s is not among the pages; the test would hold nothing", name)
		}
	}
}

// TestDocsFindsFaults: each kind of wrong quotation is found, and a right one
// is not.
func TestDocsFindsFaults(t *testing.T) {
	r := newReference(t)
	for _, c := range []struct{ page, want string }{
		{"Type `ingot machine ls`.", ""},
		{"Type `ingot machine list`.", `ingot machine has no command "list"`},
		{"Type `ingot bulid lab`.", `ingot has no command "bulid"`},
		{"Type `ingot machine show NAME --boot ID`.", ""},
		{"Type `ingot machine show NAME --boots ID`.", "ingot machine show has no flag --boots"},
		{"Type `ingot boots node01 -n 3`.", ""},
		{"Type `ingot boots node01 -x`.", "ingot boots has no flag -x"},
		{"```\nbin/ingot build lab --version v1  # and ingot nonsense\n```", ""},
		{"```\ncurl -k https://host | ingot image import -x\n```", "ingot image import has no flag -x"},
		{"```\nINGOT_STORE=x sudo bin/ingot bild lab\n```", `ingot has no command "bild"`},
		{"The flag `--approve-all`.", ""},
		{"The flag `--approve-nobody`.", "no command has the flag --approve-nobody"},
		{"```yaml\ndhcp:\n  interfaces: [{name: eth1, mode: proxy}]\n```", ""},
		{"```yaml\ndhcp:\n  interfaces: [{name: eth1, made: proxy}]\n```", "dhcp.interfaces.made"},
		{"```yaml\nname: web\nextends: node\npackages: [nginx-light]\n```", ""},
		{"```yaml\nname: web\nextents: node\n```", "extents"},
		{"The key `dhcp.interfaces`.", ""},
		{"The key `dhcp.interface`.", "dhcp.interface"},
		{"A profile has `base: {oci: x}` and `layers:`.", ""},
		{"A profile has `bases: {oci: x}`.", "bases"},
		{"See `ingot_boots_open` and `ingot_machines{state}`.", ""},
		{"See `ingot_boots_opened`.", "no metric ingot_boots_opened"},
	} {
		got := strings.Join(r.checkPage(c.page), "; ")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%q: found %q; want %q", c.page, got, c.want)
		}
	}
	for _, c := range []struct{ text, want string }{
		{"read it again with: ingot config reload", ""},
		{"ingot image gc, or ingot image remove %s", `ingot image has no command "remove"`},
		{"ingot doctor --intreface IF", "ingot doctor has no flag --intreface"},
		{"api.listening in the server's configuration", "api.listening"},
	} {
		got := strings.Join(r.checkProse(c.text, true), "; ")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%q: found %q; want %q", c.text, got, c.want)
		}
	}
	table := "| # | who | what | stage |\n|---|---|---|---|\n| 1 | a | b | `%s` |\n\n" +
		"| what | console |\n|---|---|\n| x | \"%s\" |\n"
	for _, c := range []struct{ stage, text, want string }{
		{"ticket", "the ticket has expired", "stage dhcp is not in a table"},
		{"tickets", "the ticket has expired", `there is no stage "tickets"`},
		{"ticket", "the ticket is stale", `nothing on the machine says "the ticket is stale"`},
	} {
		if got := strings.Join(r.checkBoot(fmt.Sprintf(table, c.stage, c.text)), "; "); !strings.Contains(got, c.want) ||
			strings.Contains(got, "nothing on the machine") != strings.Contains(c.want, "nothing on the machine") {
			t.Errorf("%s, %q: found %q; want %q", c.stage, c.text, got, c.want)
		}
	}
}

// reference is what the program has.
type reference struct {
	root     *cobra.Command
	flags    map[string]bool   // of all commands
	config   *schema           // of the server's configuration
	profile  *schema           // of profiles
	fleet    *schema           // of fleet files
	metrics  map[string]bool   // names of metrics
	machines []string          // texts on the machine, with … for what differs
	keys     map[string]string // all keys of both schemas
}

func newReference(t *testing.T) *reference {
	t.Helper()
	r := &reference{root: newApp(nil, nil, nil).rootCommand(), flags: map[string]bool{"help": true},
		metrics: map[string]bool{}, keys: map[string]string{}}
	for _, c := range withParents(r.root) {
		c.InitDefaultHelpFlag()
		c.Flags().VisitAll(func(f *pflag.Flag) { r.flags[f.Name] = true })
		c.InheritedFlags().VisitAll(func(f *pflag.Flag) { r.flags[f.Name] = true })
	}
	for _, s := range []struct {
		into **schema
		text func() ([]byte, error)
	}{{&r.config, config.Schema}, {&r.profile, profiles.Schema}, {&r.fleet, desired.Schema}} {
		text, err := s.text()
		if err == nil {
			err = json.Unmarshal(text, s.into)
		}
		if err != nil {
			t.Fatal(err)
		}
		(*s.into).names(r.keys)
	}
	for _, l := range literals(t, "bootserver") {
		if l.call == "describe" {
			r.metrics["ingot_"+l.text] = true
		}
		if strings.HasPrefix(l.text, "ingot_") {
			r.metrics[l.text] = true
		}
	}
	for _, l := range literals(t, "rootfs", "bootserver/ipxe") {
		r.machines = append(r.machines, verbRE.ReplaceAllString(l.text, "…"))
	}
	if len(r.metrics) < 10 || len(r.machines) < 100 || len(r.keys) < 50 {
		t.Fatalf("found %d metrics, %d texts of machines and %d keys; the test would hold nothing", len(r.metrics),
			len(r.machines), len(r.keys))
	}
	return r
}

// withParents are all commands by path, with those that only hold others.
func withParents(c *cobra.Command) map[string]*cobra.Command {
	list := map[string]*cobra.Command{"": c}
	for _, s := range c.Commands() {
		for path, below := range withParents(s) {
			list[strings.TrimSpace(s.Name()+" "+path)] = below
		}
	}
	return list
}

// readDocs returns the pages of the documentation by path.
func readDocs(t *testing.T) map[string]string {
	t.Helper()
	const root = "../.."
	pages := map[string]string{}
	files, err := filepath.Glob(filepath.Join(root, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(filepath.Join(root, "docs"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(p) == ".md" {
			files = append(files, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			t.Fatal(err)
		}
		pages[filepath.ToSlash(name)] = string(text)
	}
	return pages
}

var (
	fenceRE  = regexp.MustCompile("(?ms)^```([a-z]*)[^\n]*\n(.*?)^```")
	codeRE   = regexp.MustCompile("`([^`\n]+)`")
	metricRE = regexp.MustCompile(`^(ingot_[a-z0-9_]*[a-z0-9])(\{[a-z,]*\})?$`)
	flagRE   = regexp.MustCompile(`^--([a-z][a-z0-9-]*)`)
	dottedRE = regexp.MustCompile(`^[a-z][A-Za-z0-9]*(\.[a-z][A-Za-z0-9]*)+$`)
	mapRE    = regexp.MustCompile(`^[a-z][A-Za-z0-9]*:( |$)`)
	verbRE   = regexp.MustCompile(`%[-+# 0]*[0-9.*]*[a-zA-Z]`)
)

// foreignFlags are flags of other programs that pages mention by themselves.
var foreignFlags = []string{"enable-ra", "privileged", "network"}

// foreignKeys begin YAML in code that is neither configuration nor profile.
var foreignKeys = []string{"cap", "go", "ok", "error"}

// checkPage returns the wrong quotations of a page in Markdown.
func (r *reference) checkPage(text string) (faults []string) {
	for _, m := range fenceRE.FindAllStringSubmatch(text, -1) {
		switch lang, block := m[1], m[2]; lang {
		case "yaml":
			faults = append(faults, r.checkYAML(block)...)
		case "", "sh", "console", "bash":
			for line := range strings.Lines(strings.ReplaceAll(block, "\\\n", " ")) {
				faults = append(faults, r.checkShell(line)...)
			}
		}
	}
	for _, m := range codeRE.FindAllStringSubmatch(fenceRE.ReplaceAllString(text, ""), -1) {
		faults = append(faults, r.checkCode(m[1])...)
	}
	return faults
}

// checkCode checks code in the middle of a sentence.
func (r *reference) checkCode(code string) (faults []string) {
	head, _, _ := strings.Cut(code, ".")
	switch {
	case metricRE.MatchString(code):
		if name := metricRE.FindStringSubmatch(code)[1]; !r.metrics[name] {
			return []string{"there is no metric " + name}
		}
	case flagRE.MatchString(code):
		if name := flagRE.FindStringSubmatch(code)[1]; !r.flags[name] && !slices.Contains(foreignFlags, name) {
			return []string{"no command has the flag --" + name}
		}
	case dottedRE.MatchString(code) && r.config.Properties[head] != nil:
		return r.checkDotted(code)
	case mapRE.MatchString(code):
		key, _, _ := strings.Cut(code, ":")
		if _, ok := r.keys[key]; !ok && !slices.Contains(foreignKeys, key) {
			return []string{fmt.Sprintf("%q: no configuration, profile or fleet file has the key %s", code, key)}
		}
	default:
		return r.checkShell(code)
	}
	return nil
}

func (r *reference) checkDotted(key string) []string {
	at := r.config
	for _, part := range strings.Split(key, ".") {
		at = at.value().Properties[part]
		if at == nil {
			return []string{"the configuration has no key " + key}
		}
	}
	return nil
}

// checkShell checks the commands of a line of shell that run ingot.
func (r *reference) checkShell(line string) (faults []string) {
	for _, words := range shellWords(line) {
		for len(words) > 0 && (words[0] == "sudo" || words[0] == "$" || strings.Contains(words[0], "=")) {
			words = words[1:]
		}
		if len(words) == 0 || words[0] != "ingot" && words[0] != "bin/ingot" {
			continue
		}
		if fault := r.checkCommand(words[1:]); fault != "" {
			faults = append(faults, fmt.Sprintf("%q: %s", strings.TrimSpace(line), fault))
		}
	}
	return faults
}

// shellWords splits a line into commands and their words.
func shellWords(line string) (list [][]string) {
	var words []string
	var word strings.Builder
	var quote rune
	within := false // a word
	endWord := func() {
		if within {
			words = append(words, word.String())
			word.Reset()
		}
		within = false
	}
	endCommand := func() {
		endWord()
		if words != nil {
			list = append(list, words)
		}
		words = nil
	}
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, within = c, true
		case c == '#' && !within:
			endCommand()
			return list
		case c == '|' || c == ';' || c == '&' || c == '(' || c == ')':
			endCommand()
		case c == ' ' || c == '\t' || c == '\n':
			endWord()
		default:
			word.WriteRune(c)
			within = true
		}
	}
	endCommand()
	return list
}

var commandRE = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

// checkCommand reports what is wrong with the arguments of ingot. A word that is
// not written as a command is, such as COMMAND or …, stands for one.
func (r *reference) checkCommand(words []string) string {
	c, skip := r.root, false
	var flags []string
	for _, w := range words {
		switch {
		case skip:
			skip = false
		case strings.HasPrefix(w, "-") && w != "-":
			flags = append(flags, w)
			skip = takesValue(c, w)
		case c.HasSubCommands() && !commandRE.MatchString(w):
			return ""
		case c.HasSubCommands():
			i := slices.IndexFunc(c.Commands(), func(s *cobra.Command) bool { return s.Name() == w })
			if i < 0 {
				return fmt.Sprintf("%s has no command %q", c.CommandPath(), w)
			}
			c = c.Commands()[i]
		}
	}
	for _, f := range flags {
		if lookUp(c, f) == nil {
			name, _, _ := strings.Cut(f, "=")
			return fmt.Sprintf("%s has no flag %s", c.CommandPath(), name)
		}
	}
	return ""
}

func takesValue(c *cobra.Command, word string) bool {
	f := lookUp(c, word)
	return f != nil && f.NoOptDefVal == "" && !strings.Contains(word, "=")
}

// lookUp finds a flag of a command as it is typed: --name, --name=value or -x.
func lookUp(c *cobra.Command, word string) *pflag.Flag {
	c.InitDefaultHelpFlag()
	if name, long := strings.CutPrefix(word, "--"); long {
		name, _, _ = strings.Cut(name, "=")
		return c.Flag(name)
	}
	short := word[1:2]
	if f := c.Flags().ShorthandLookup(short); f != nil {
		return f
	}
	return c.InheritedFlags().ShorthandLookup(short)
}

// prose are words that follow the name of the program in sentences.
var prose = []string{"turns", "builds", "network-boots", "gives", "makes", "built", "of", "is", "does", "wrote",
	"needs", "has", "answers", "boot",
	"or", "and", "again", "here", "itself", "serves", "refuses", "for",
	"server", "that", "reads", "asks", "cannot", "signature"}

// saidRE finds a command in a sentence of help, hintRE one in an error or log
// message, where it follows a colon or begins the text.
var (
	saidRE = regexp.MustCompile(`(?:^|[^/.\w-])ingot ([a-z][a-z0-9-]*(?: [^ \n,;:()"]+)*)`)
	hintRE = regexp.MustCompile("(?:^|: |→ |, or |[\"`])ingot ([a-z][a-z0-9-]*(?: [^ \n,;:()\"]+)*)")
)

// wordKeyRE finds what looks like a key of the configuration.
var wordKeyRE = regexp.MustCompile(`[a-z][A-Za-z0-9]*(?:\.[a-z][A-Za-z0-9]*)+`)

// checkProse checks the commands in sentences, where their end is not marked: a
// word after a command without commands of its own may be anything. Flags are
// checked where hints is set.
func (r *reference) checkProse(text string, hints bool) (faults []string) {
	find := saidRE
	if hints {
		find = hintRE
	}
	for _, m := range find.FindAllStringSubmatch(text, -1) {
		words := strings.Fields(strings.TrimRight(m[1], "."))
		if slices.Contains(prose, words[0]) {
			continue
		}
		if i := slices.IndexFunc(words, func(w string) bool { return w == "ingot" || w == "or" || w == "and" }); i > 0 {
			words = words[:i]
		}
		if !hints { // what follows the command may be the sentence
			n := 1
			for n < len(words) && commandRE.MatchString(words[n]) && n < 2 && r.holdsOthers(words[0]) {
				n++
			}
			words = words[:n]
		}
		if fault := r.checkCommand(words); fault != "" {
			faults = append(faults, fmt.Sprintf("%q: %s", m[0], fault))
		}
	}
	for _, key := range wordKeyRE.FindAllString(text, -1) {
		if head, _, _ := strings.Cut(key, "."); r.config.Properties[head] != nil && !strings.Contains(text, "/"+key) {
			faults = append(faults, r.checkDotted(key)...)
		}
	}
	return faults
}

func (r *reference) holdsOthers(command string) bool {
	c, _, err := r.root.Find([]string{command})
	return err == nil && c.HasSubCommands()
}

// checkHelp checks the help of a command.
func (r *reference) checkHelp(c *cobra.Command) (faults []string) {
	for line := range strings.Lines(c.Example) {
		faults = append(faults, r.checkShell(line)...)
	}
	faults = append(faults, r.checkProse(c.Short+"\n"+c.Long, false)...)
	c.LocalFlags().VisitAll(func(f *pflag.Flag) { faults = append(faults, r.checkProse(f.Usage, false)...) })
	return faults
}

// schema is the part of a JSON schema that names keys.
type schema struct {
	Properties map[string]*schema `json:"properties"`
	Items      *schema            `json:"items"`
	OneOf      []*schema          `json:"oneOf"`
	AnyOf      []*schema          `json:"anyOf"`
	Additional json.RawMessage    `json:"additionalProperties"` // false, or the schema of values by any key
}

// value is the schema of a value, or of the elements of a list.
func (s *schema) value() *schema {
	for s.Items != nil {
		s = s.Items
	}
	return s
}

func (s *schema) names(into map[string]string) {
	for name, below := range s.Properties {
		into[name] = name
		below.names(into)
	}
	for _, below := range append(slices.Concat(s.OneOf, s.AnyOf), s.Items) {
		if below != nil {
			below.names(into)
		}
	}
}

// unknown returns the keys of a document that a schema does not have.
func (s *schema) unknown(path string, v any) (keys []string) {
	if forms := slices.Concat(s.OneOf, s.AnyOf); len(forms) > 0 { // the one that fits best
		keys = forms[0].unknown(path, v)
		for _, form := range forms[1:] {
			if other := form.unknown(path, v); len(other) < len(keys) {
				keys = other
			}
		}
		return keys
	}
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			at := strings.TrimPrefix(path+"."+k, ".")
			if below, ok := s.Properties[k]; ok {
				keys = append(keys, below.unknown(at, v[k])...)
			} else if len(s.Additional) == 0 || string(s.Additional) == "false" {
				keys = append(keys, at)
			}
		}
	case []any:
		for _, e := range v {
			keys = append(keys, s.value().unknown(path, e)...)
		}
	}
	return keys
}

// checkYAML checks the keys of a configuration, profile or fleet file.
func (r *reference) checkYAML(block string) (faults []string) {
	var v any
	if err := yaml.Unmarshal([]byte(block), &v); err != nil {
		return []string{fmt.Sprintf("reading YAML: %v:\n%s", err, block)}
	}
	asConfig, asProfile := r.config.unknown("", v), r.profile.unknown("", v)
	best := asConfig
	if len(asProfile) < len(asConfig) || len(asProfile) == len(asConfig) && strings.Contains(block, "extends:") {
		best = asProfile
	}
	if asFleet := r.fleet.unknown("", v); len(asFleet) < len(best) {
		best = asFleet
	}
	for _, key := range best {
		faults = append(faults, "there is no key "+key)
	}
	return faults
}

var (
	stageRE = regexp.MustCompile("`([a-z]+)`")
	quoteRE = regexp.MustCompile(`"([^"]+)"`)
)

// checkBoot checks the tables of BOOT.md: in a column called stage are stages,
// and all of them; in a column that begins with console are texts in quotes.
func (r *reference) checkBoot(page string) (faults []string) {
	found, kind, quotes := map[string]bool{}, "", 0
	for line := range strings.Lines(page) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		last := strings.TrimSpace(cells[len(cells)-1])
		switch {
		case !strings.HasPrefix(line, "|"):
			kind = ""
		case kind == "" && last == "stage":
			kind = "stage"
		case kind == "" && strings.HasPrefix(last, "console"):
			kind = "console"
		case kind == "stage":
			for _, m := range stageRE.FindAllStringSubmatch(last, -1) {
				found[m[1]] = true
				if !slices.Contains(ingot.Stages, ingot.Stage(m[1])) {
					faults = append(faults, fmt.Sprintf("there is no stage %q", m[1]))
				}
			}
		case kind == "console":
			for _, m := range quoteRE.FindAllStringSubmatch(last, -1) {
				quotes++
				if !slices.ContainsFunc(r.machines, func(text string) bool { return strings.Contains(text, m[1]) }) {
					faults = append(faults, fmt.Sprintf("nothing on the machine says %q", m[1]))
				}
			}
		}
	}
	if quotes == 0 {
		faults = append(faults, "no text on the console is quoted")
	}
	for _, s := range ingot.Stages {
		if !found[string(s)] {
			faults = append(faults, fmt.Sprintf("stage %s is not in a table", s))
		}
	}
	return faults
}
