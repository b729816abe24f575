package build

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/profiles"
)

func profileCommand(a *command.App) *cobra.Command {
	return command.Parent("profile", "list, show, compare and begin profiles, and print the schema of profiles",
		`  ingot profile ls
  ingot profile new web --extends node
  ingot profile show ./web --origin
  ingot profile diff node ./web`,
		profileList(a), profileShow(a), profileNew(a), profileDiff(a),
		printer(a, "schema", "print the JSON schema of profiles, for editors",
			"  ingot profile schema > profile.schema.json", profiles.Schema),
		printer(a, "reference", "print a page that describes all keys of a profile",
			"  ingot profile reference | less", profiles.Reference))
}

// printer is a command that prints one text.
func printer(a *command.App, use, short, example string, text func() ([]byte, error)) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: command.ExactArgs(), Example: example,
		RunE: func(*cobra.Command, []string) error {
			b, err := text()
			if err != nil {
				return err
			}
			_, err = a.Stdout.Write(b)
			return err
		},
	}
}

// profileFolders are where commands look for profiles without a path.
var profileFolders = []string{".", "profiles"}

func profileList(a *command.App) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "list the shipped profiles and those below this folder", Args: command.ExactArgs(),
		Long: `List the shipped profiles, and those in the folders of the current folder and of its folder profiles.
Faults of a file are shown in place of its purpose.`,
		Example: `  ingot profile ls
  ingot profile ls -o json | jq -r '.[] | select(.shipped | not) | .ref'`,
		RunE: func(*cobra.Command, []string) error {
			var list []profiles.Listed
			for _, folder := range profileFolders {
				more, err := profiles.List(folder)
				if err != nil {
					return err
				}
				for _, l := range more {
					if !slices.ContainsFunc(list, func(k profiles.Listed) bool { return k.Ref == l.Ref }) {
						list = append(list, l)
					}
				}
			}
			slices.SortStableFunc(list, func(x, y profiles.Listed) int { return strings.Compare(x.Name, y.Name) })
			return a.Show(list, func(w io.Writer) {
				t := show.Table(w)
				show.Row(t, "NAME", "PROFILE", "EXTENDS", "PURPOSE")
				for _, l := range list {
					ref, purpose := l.Ref, l.Purpose
					if l.Shipped {
						ref = "shipped"
					}
					if l.Broken != "" {
						purpose = l.Broken
					}
					show.Row(t, l.Name, ref, show.Dash(strings.Join(l.Extends, ", ")), show.Dash(purpose))
				}
				t.Flush()
			})
		},
	}
}

// shownProfile is the JSON form of a merged profile.
type shownProfile struct {
	*profiles.Profile
	Origin map[string]string `json:"origin,omitempty"` // places by key
}

func profileShow(a *command.App) *cobra.Command {
	var origin bool
	var set []string
	c := &cobra.Command{
		Use: "show PROFILE", Short: "print a profile merged with all that it extends",
		Long: `Print a profile as one file: merged with the profiles that it extends, without what it takes back, and
with defaults. With --origin, each value has a comment with the file, line and column that it is from.

A file is merged after those that it extends, in the order of the key extends. A profile that several
others extend is merged once, before the first of them.`,
		Example: `  ingot profile show node
  ingot profile show ./web --origin
  ingot profile show ./web --origin | grep packages.htop
  ingot profile show ./web --origin -o json | jq -r '.origin["kernel.package"]'`,
		Args: command.ExactArgs("PROFILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			values, err := variables(set)
			if err != nil {
				return err
			}
			p, err := profiles.LoadWith(args[0], values)
			if err != nil {
				return err
			}
			text, err := p.Text(origin)
			if err != nil {
				return err
			}
			shown := shownProfile{Profile: p}
			if origin {
				shown.Origin = map[string]string{}
				for key, at := range p.Origins() {
					shown.Origin[key] = at.String()
				}
			}
			return a.Show(shown, func(w io.Writer) { _, _ = w.Write(text) })
		},
	}
	addSet(c, &set)
	c.Flags().BoolVar(&origin, "origin", false, "add to each value the file, line and column that it is from")
	return c
}

func profileNew(a *command.App) *cobra.Command {
	var extends string
	c := &cobra.Command{
		Use: "new FOLDER", Short: "begin a profile in a new folder",
		Long: `Write FOLDER/profile.yaml, a profile that builds as it is, with examples of what to add. The name of the
folder becomes the name of the profile. A file that exists is not replaced.`,
		Example: `  ingot profile new web
  ingot profile new profiles/db --extends ../web`,
		Args: command.ExactArgs("FOLDER"),
		RunE: func(_ *cobra.Command, args []string) error {
			folder := filepath.Clean(args[0])
			text, err := profiles.New(filepath.Base(folder), extends)
			if err != nil {
				return err
			}
			path := filepath.Join(folder, "profile.yaml")
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return fmt.Errorf("beginning a profile: %w", err)
			}
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			if errors.Is(err, fs.ErrExist) {
				return show.WithHint(fmt.Errorf("beginning a profile: %q exists", path), "choose another folder, or edit that file")
			}
			if err != nil {
				return fmt.Errorf("beginning a profile: %w", err)
			}
			_, err = f.Write(text)
			if err = errors.Join(err, f.Close()); err != nil {
				return fmt.Errorf("beginning a profile: %w", err)
			}
			return a.Show(map[string]string{"path": path}, func(w io.Writer) {
				fmt.Fprintf(w, "wrote %s\n  → ingot build ./%s\n", path, folder)
			})
		},
	}
	c.Flags().StringVar(&extends, "extends", "node", "profile to start from: a shipped one, or a path relative to FOLDER")
	return c
}

func profileDiff(a *command.App) *cobra.Command {
	return &cobra.Command{
		Use: "diff PROFILE PROFILE", Short: "show the values that differ between two merged profiles",
		Long: `Merge two profiles with all that they extend, and show the values that differ: those that only the first
has with −, those that only the second has with +. To compare what was built, use ingot image diff.`,
		Example: `  ingot profile diff node ./web
  ingot profile diff ./web ./web2 -o json`,
		Args: command.ExactArgs("PROFILE", "PROFILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			var both [2]*profiles.Profile
			for i, ref := range args {
				var err error
				if both[i], err = profiles.Load(ref); err != nil {
					return err
				}
			}
			list := profiles.Diff(both[0], both[1])
			return a.Show(list, func(w io.Writer) {
				for _, d := range list {
					differenceText(w, d)
				}
				if len(list) == 0 {
					fmt.Fprintln(w, "the profiles say the same")
				}
			})
		},
	}
}

// differenceText prints a value that differs. A word of a list is in its key already.
func differenceText(w io.Writer, d profiles.Difference) {
	switch text := d.Before + d.After; {
	case d.Before != "" && d.After != "":
		show.Change(w, d.Key, quoted(d.Before), quoted(d.After))
	case !strings.HasSuffix(d.Key, "="+text):
		show.Change(w, d.Key+":", quoted(d.Before), quoted(d.After))
	case d.After == "":
		fmt.Fprintf(w, "  − %s\n", show.Plain(d.Key))
	default:
		fmt.Fprintf(w, "  + %s\n", show.Plain(d.Key))
	}
}

// quoted returns a value on one line. It is empty for no value.
func quoted(text string) string {
	first, rest, _ := strings.Cut(text, "\n")
	switch {
	case text == "":
		return ""
	case rest != "":
		return fmt.Sprintf("%q and more lines", first)
	}
	return fmt.Sprintf("%q", first)
}
