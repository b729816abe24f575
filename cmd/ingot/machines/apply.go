package machines

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ingot/bootserver/api"
	"ingot/bootserver/fleet/desired"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/internal/count"
)

// fleetFiles is in the help of commands that take fleet files.
const fleetFiles = `FILE is a YAML or JSON file with machines, labels, rules, assignments, pins and how images
reach many machines; a folder, whose .yaml, .yml and .json files are read, those of its folders too;
or "-" for standard input. Several files are one. See docs/GITOPS.md.`

const applyLong = `Make the fleet as files say. All changes are printed first, one on each line. If anything is
wrong with the files, every fault is reported with its line, and nothing is changed.

What files do not mention stays. What an earlier file said and these do not say any more stays, too,
unless --prune is given: it removes labels, pins and rules, of those sections that the files have.
Machines are only deleted with --prune --forget.

An assignment that changes the image of more than 10 machines (rollout: above) starts a rollout. To
make sure that exactly the changes of a plan are made, give its basis: ingot diff -o json.

` + fleetFiles

// fleetFlags are the flags of ingot apply and ingot diff.
type fleetFlags struct {
	files []string
	api.DesiredRequest
	yes bool
}

func (f *fleetFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringArrayVarP(&f.files, "file", "f", nil, "file or folder with the desired state; - is standard input; may be "+
		"given several times")
	fl.BoolVar(&f.Prune, "prune", false, "remove labels, pins and rules that earlier files had and these lack")
	fl.BoolVar(&f.Forget, "forget", false, "with --prune: delete machines as well")
	fl.BoolVar(&f.Retry, "retry", false, "start rollouts again that were aborted")
	addForce(c, &f.Force)
}

// read reads the files.
func (f *fleetFlags) read(a *Commands) (err error) {
	if len(f.files) == 0 {
		return show.Usagef("name the files: -f FILE, or -f - for standard input")
	}
	if f.Forget && !f.Prune {
		return show.Usagef("--forget needs --prune")
	}
	f.Files, err = a.readFleet(f.files)
	return err
}

func (a *Commands) applyCommand() *cobra.Command {
	var f fleetFlags
	c := &cobra.Command{
		Use: "apply", Short: "make the fleet as files say", Long: applyLong,
		Example: `  ingot apply -f fleet.yaml --dry-run
  ingot apply -f fleet/ --yes
  ingot apply -f fleet/ --prune --yes
  ingot get | ingot apply -f - --dry-run     # no changes`,
		Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.read(a); err != nil {
				return err
			}
			return a.apply(cmd, f)
		},
	}
	f.add(c)
	c.Flags().BoolVar(&f.DryRun, "dry-run", false, "show what would change, and change nothing")
	c.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	c.Flags().StringVar(&f.Basis, "basis", "", "of a plan: make its changes, or none if the fleet has changed since")
	return c
}

func (a *Commands) apply(cmd *cobra.Command, f fleetFlags) error {
	ctx := cmd.Context()
	plan, err := a.Client().DiffDesired(ctx, f.DesiredRequest)
	if err != nil {
		return err
	}
	if f.DryRun {
		return a.Show(plan, func(w io.Writer) { planLines(w, plan) })
	}
	if !a.JSON() {
		if err := a.Show(nil, func(w io.Writer) { planLines(w, plan) }); err != nil {
			return err
		}
	}
	if n := len(plan.Changes); n > 0 && !f.yes {
		if err := a.confirm("make "+changes(n), slices.Contains(f.files, "-")); err != nil {
			return err
		}
	}
	f.Basis = plan.Basis
	done, err := a.Client().ApplyDesired(ctx, f.DesiredRequest)
	if err != nil {
		return err
	}
	err = a.Show(done, func(w io.Writer) {
		if n := len(done.Changes); n > 0 {
			fmt.Fprintf(w, "%s made\n", changes(n))
		}
		for _, id := range done.Rollouts {
			fmt.Fprintf(w, "rollout %s was started: ingot rollout show %s\n", show.Plain(id), show.Plain(id))
		}
	})
	if len(done.Problems) > 0 {
		err = errors.Join(err, show.WithHint(errors.New(strings.Join(done.Problems, "\n")),
			"the rest was done; run the same command again when the reason is gone"))
	}
	return err
}

// confirm asks whether to do something, if somebody is there to answer. busy: standard input is a file.
func (a *Commands) confirm(what string, busy bool) error {
	in, is := a.Stdin.(*os.File)
	if busy || !is || !term.IsTerminal(int(in.Fd())) {
		return show.Usagef("to %s without a terminal, give --yes", what)
	}
	fmt.Fprintf(a.Stderr, "%s? [y/N] ", what)
	line, _ := bufio.NewReader(in).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}

func changes(n int) string {
	if n == 1 {
		return "1 change"
	}
	return fmt.Sprintf("%d changes", n)
}

func (a *Commands) diffCommand() *cobra.Command {
	var f fleetFlags
	c := &cobra.Command{
		Use: "diff", Short: "show what files would change",
		Long: `Show what ingot apply would change with the same files, one change on each line. The exit code is
that of diff(1): 0 if nothing would change, 1 if something would, 2 if that cannot be said: the files
have faults, or the server does not answer. It takes the scope read.

` + fleetFiles,
		Example: `  ingot diff -f fleet.yaml
  ingot diff -f fleet/ -o json | jq -r .basis`,
		Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.read(a); err != nil {
				return show.CodeError{Err: err, Code: 2}
			}
			plan, err := a.Client().DiffDesired(cmd.Context(), f.DesiredRequest)
			if err != nil {
				return show.CodeError{Err: err, Code: 2}
			}
			if err := a.Show(plan, func(w io.Writer) { planLines(w, plan) }); err != nil {
				return show.CodeError{Err: err, Code: 2}
			}
			if len(plan.Changes) > 0 {
				return show.CodeError{Code: 1}
			}
			return nil
		},
	}
	f.add(c)
	return c
}

// marks are what lines of a plan begin with.
var marks = map[string]string{"add": "+", "change": "~", "remove": "-", "rollout": ">"}

func planLines(w io.Writer, p api.DesiredPlan) {
	for _, c := range p.Changes {
		mark := marks[c.Do]
		if mark == "" {
			mark = "?"
		}
		line := fmt.Sprintf("%s %s %s", mark, c.Kind, c.Name)
		if c.Name == c.Kind {
			line = mark + " " + c.Kind
		}
		if len(c.What) > 0 {
			line += ": " + strings.Join(c.What, "; ")
		}
		fmt.Fprintln(w, show.Plain(line))
	}
	for _, n := range p.Notes {
		fmt.Fprintln(w, show.Plain("note: "+n))
	}
	if len(p.Changes) == 0 {
		fmt.Fprintln(w, "no changes")
	}
}

func (a *Commands) getCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get", Short: "print the fleet as a file that ingot apply takes",
		Long: `Print machines, rules, assignments, pins and how images reach many machines as a file (YAML, or JSON
with -o json) that ingot apply takes: applying it changes nothing. Machines that only wait for
approval are left out.`,
		Example:     "  ingot get -o yaml > fleet.yaml\n  ingot apply -f fleet.yaml --dry-run",
		Annotations: map[string]string{command.AlsoYAML: "true"},
		Args:        command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.Client().Desired(cmd.Context())
			if err != nil {
				return err
			}
			if s.Following {
				fmt.Fprintln(a.Stderr, "machines do not have all of it yet that was applied; run the same command again")
			}
			if !a.JSON() {
				return a.Show(nil, func(w io.Writer) { fmt.Fprint(w, s.YAML) })
			}
			p := desired.Parse([]desired.File{{Name: "the server's answer", Content: []byte(s.YAML)}})
			if err := p.Faults.Err(); err != nil && len(p.Spec.Machines) > 0 {
				return err
			}
			return a.Show(p.Spec, nil)
		},
	}
}

func (a *Commands) fleetCommand() *cobra.Command {
	schema := &cobra.Command{
		Use: "schema", Short: "print the JSON schema of fleet files, for editors", Args: command.ExactArgs(),
		Example: "  ingot fleet schema > fleet.schema.json",
		RunE: func(*cobra.Command, []string) error {
			b, err := desired.Schema()
			if err != nil {
				return err
			}
			_, err = a.Stdout.Write(b)
			return err
		},
	}
	var files []string
	check := &cobra.Command{
		Use: "check", Short: "check fleet files without a server",
		Long: `Check fleet files without a server, and report every fault with its line. What only the server knows,
such as images and machines that are not in the files, is not checked: see ingot diff.

` + fleetFiles,
		Example: "  ingot fleet check -f fleet/", Args: command.ExactArgs(),
		RunE: func(*cobra.Command, []string) error {
			if len(files) == 0 {
				return show.Usagef("name the files: -f FILE, or -f - for standard input")
			}
			list, err := a.readFleet(files)
			if err != nil {
				return err
			}
			given := make([]desired.File, len(list))
			for i, f := range list {
				given[i] = desired.File{Name: f.Name, Content: []byte(f.Content)}
			}
			p := desired.Parse(given)
			if err := p.Faults.Err(); err != nil {
				return err
			}
			return a.Show(map[string]any{"files": len(list), "machines": len(p.Spec.Machines)}, func(w io.Writer) {
				fmt.Fprintf(w, "no mistakes in %s with %s\n", count.Of(len(list), "file"),
					count.Of(len(p.Spec.Machines), "machine"))
			})
		},
	}
	check.Flags().StringArrayVarP(&files, "file", "f", nil, "file or folder to check; - is standard input")
	return command.Parent("fleet", "check fleet files, and print their schema",
		"  ingot fleet check -f fleet/\n  ingot fleet schema > fleet.schema.json", check, schema)
}

// readFleet reads files and the files of folders.
func (a *Commands) readFleet(paths []string) (list []api.DesiredFile, err error) {
	for _, path := range paths {
		names := []string{path}
		if path != "-" {
			if names, err = filesIn(path); err != nil {
				return nil, err
			}
		}
		for _, name := range names {
			text, err := a.readAll(name)
			if err != nil {
				return nil, fmt.Errorf("reading the fleet file: %w", err)
			}
			if name == "-" {
				name = "standard input"
			}
			list = append(list, api.DesiredFile{Name: name, Content: string(text)})
		}
	}
	return list, nil
}

// filesIn returns a file itself, or the files with desired state below a folder, sorted by name. What begins
// with a dot is left out.
func filesIn(path string) (names []string, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, show.WithHint(fmt.Errorf("reading the fleet file: there is no file or folder %q", path),
			"ingot get -o yaml > fleet.yaml")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the fleet file: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	err = filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		hidden := name != path && strings.HasPrefix(e.Name(), ".")
		switch {
		case err != nil:
			return err
		case hidden && e.IsDir():
			return fs.SkipDir
		case !hidden && !e.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)):
			names = append(names, name)
		}
		return nil
	})
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("reading the fleet files: no .yaml, .yml or .json file is below %q", path)
	}
	return names, err
}
