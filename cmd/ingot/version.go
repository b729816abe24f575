package main

import (
	"fmt"
	"io"
	"runtime"

	"ingot/cmd/ingot/command"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version of this program and of the running server", Args: command.ExactArgs(),
		Example: "  ingot version -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct {
				Client string `json:"client"`
				Go     string `json:"go"`
				Server string `json:"server,omitempty"`
			}{Client: version, Go: runtime.Version()}
			// It is no failure if no server runs.
			if s, err := a.Client().Version(cmd.Context()); err == nil {
				v.Server = s
			}
			return a.Show(v, func(w io.Writer) {
				fmt.Fprintf(w, "ingot %s (%s)\n", v.Client, v.Go)
				if v.Server != "" {
					fmt.Fprintf(w, "server %s\n", v.Server)
				}
			})
		},
	}
}
