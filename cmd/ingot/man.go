package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"ingot/cmd/ingot/command"
)

// manCommand writes the manual pages. It is for packagers and make man.
func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man FOLDER", Hidden: true, Short: "write the manual pages, one for each command",
		Long: `Write the manual pages of section 1 into FOLDER: ingot.1 and one page for each command.
Their date is that of SOURCE_DATE_EPOCH, if it is set.`,
		Example: "  ingot man /usr/share/man/man1", Args: command.ExactArgs("FOLDER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := newApp(a.Stdin, a.Stdout, a.Stderr).rootCommand() // the pages change its texts
			overview := manOverview(root)
			prepareForMan(root)
			root.Long += overview
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("writing the manual pages: %w", err)
			}
			header := &doc.GenManHeader{Section: "1", Source: "ingot " + a.Version, Manual: "ingot"}
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("writing the manual pages: %w", err)
			}
			return nil
		},
	}
}

// manOverview is what the page of ingot itself has besides its help.
func manOverview(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("\n\n# COMMANDS\n")
	for _, g := range root.Groups() {
		fmt.Fprintf(&b, "\n**%s**\n", strings.TrimSuffix(g.Title, ":"))
		for _, c := range root.Commands() {
			if c.GroupID == g.ID && !c.Hidden {
				fmt.Fprintf(&b, "\n    %-10s %s", c.Name(), c.Short)
			}
		}
		b.WriteString("\n")
	}
	b.WriteString("\n# ENVIRONMENT\n")
	for _, v := range environment {
		fmt.Fprintf(&b, "\n**%s**\n: %s\n", v.name, v.help)
	}
	b.WriteString("\n# FILES\n")
	for _, f := range files {
		fmt.Fprintf(&b, "\n**%s**\n: %s\n", f.name, f.help)
	}
	return b.String()
}

// environment are the variables that commands read.
var environment = []struct{ name, help string }{
	{"INGOT_STORE", "The store, as with --store."},
	{"INGOT_SERVER", "The server to talk to, as with --server."},
	{"INGOT_TOKEN", "The token for a server that --server or INGOT_SERVER names."},
	{"INGOT_CONTEXT", "The context of the server to talk to, as with --context."},
	{"INGOT_CONFIG", "The configuration file, as with --config."},
	{"INGOT_MIRROR", "The Debian mirror, as with --mirror."},
	{"INGOT_KEYRING", "The keys of the mirror, as with --keyring."},
}

// files are the files that commands read and write by default.
var files = []struct{ name, help string }{
	{"/etc/ingot/ingot.yaml, /etc/ingot/ingot.d/*.yaml", "The configuration of the server and its drop-ins."},
	{"/var/lib/ingot/", "The store: images, keys, state and boot loaders."},
	{"~/.config/ingot/contexts.json", "The servers that ingot context add remembered. It holds tokens."},
}

// prepareForMan gives every command a description in Markdown, which package
// doc expects, with the exit codes.
func prepareForMan(c *cobra.Command) {
	long := c.Long
	if long == "" {
		long = strings.ToUpper(c.Short[:1]) + c.Short[1:] + "."
	}
	c.Long = markdown(long) + "\n\n# EXIT STATUS\n" + strings.TrimPrefix(strings.TrimSpace(exitCodes), "Exit codes: ")
	c.DisableAutoGenTag = true
	for _, sub := range c.Commands() {
		prepareForMan(sub)
	}
}

// markdown escapes plain text. Indented lines, such as those of a list in
// columns, stay as they are.
func markdown(text string) string {
	escape := strings.NewReplacer(`\`, `\\`, "*", `\*`, "_", `\_`, "<", `\<`, "[", `\[`, "]", `\]`, "`", "\\`", "#", `\#`)
	var b strings.Builder
	indented := false
	for line := range strings.Lines(text) {
		if in := strings.HasPrefix(line, "  "); in != indented {
			b.WriteString("\n") // a block of code stands between empty lines
			indented = in
		}
		if indented {
			b.WriteString("    " + line)
		} else {
			b.WriteString(escape.Replace(line))
		}
	}
	return b.String()
}
