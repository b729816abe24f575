// Package command is what the commands of ingot have in common: the streams and
// global flags that each of them gets, and how arguments are checked. The
// commands themselves are elsewhere.
package command

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot/cmd/ingot/client"
	"ingot/cmd/ingot/show"
)

// App is what every command needs.
type App struct {
	show.Printer
	client.Flags
	Version string
	Now     func() time.Time // the server's clock; nil means time.Now
}

// AlsoYAML is the annotation of a command whose answer is YAML: it takes -o yaml.
const AlsoYAML = "yaml"

// ExactArgs is cobra.ExactArgs with our exit code and the names of missing arguments.
func ExactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return show.Usagef("%s needs %s", cmd.CommandPath(), strings.Join(names[len(args):], " and "))
		}
		if len(args) > len(names) {
			return show.Usagef("%s takes %d argument(s), got %q", cmd.CommandPath(), len(names), args)
		}
		return nil
	}
}

// MaxArgs is cobra.MaximumNArgs with our exit code.
func MaxArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return show.Usagef("%s takes at most %d argument(s), got %q", cmd.CommandPath(), n, args)
		}
		return nil
	}
}

// LeastArgs asks for at least one argument of this name.
func LeastArgs(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return show.Usagef("%s needs %s", cmd.CommandPath(), name)
		}
		return nil
	}
}

// Parent is a command that only holds others.
func Parent(use, short, example string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Example: example}
	c.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return show.Usagef("unknown command %q for %q", args[0], cmd.CommandPath())
		}
		return nil
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	c.AddCommand(sub...)
	return c
}

// CredentialFiles are the files in which docker and podman keep credentials for registries
// (docker-login(1), containers-auth.json(5)). Those that do not exist are among them.
func CredentialFiles() []string {
	var files []string
	home, err := os.UserHomeDir()
	if d := os.Getenv("DOCKER_CONFIG"); d != "" {
		files = append(files, filepath.Join(d, "config.json"))
	} else if err == nil {
		files = append(files, filepath.Join(home, ".docker", "config.json"))
	}
	if f := os.Getenv("REGISTRY_AUTH_FILE"); f != "" {
		return append(files, f)
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		files = append(files, filepath.Join(d, "containers", "auth.json"))
	}
	if d := os.Getenv("XDG_CONFIG_HOME"); d != "" {
		files = append(files, filepath.Join(d, "containers", "auth.json"))
	} else if err == nil {
		files = append(files, filepath.Join(home, ".config", "containers", "auth.json"))
	}
	return files
}

// CacheDir is the folder of downloads and intermediate results.
func CacheDir() string {
	d, err := os.UserCacheDir()
	if err != nil {
		// A service or a CI job may run without HOME.
		return filepath.Join(os.TempDir(), "ingot-cache")
	}
	return filepath.Join(d, "ingot")
}
