package main

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"ingot/profiles"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version of this program and of the running server", Args: exactArgs(),
		Example: "  ingot version -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct {
				Client string `json:"client"`
				Go     string `json:"go"`
				Server string `json:"server,omitempty"`
			}{Client: version, Go: runtime.Version()}
			// No server is no failure here: the question was about this program.
			if s, err := a.client().Version(cmd.Context()); err == nil {
				v.Server = s
			}
			return a.show(v, func(w io.Writer) {
				fmt.Fprintf(w, "ingot %s (%s)\n", v.Client, v.Go)
				if v.Server != "" {
					fmt.Fprintf(w, "server %s\n", v.Server)
				}
			})
		},
	}
}

func (a *app) profileCommand() *cobra.Command {
	schema := &cobra.Command{
		Use: "schema", Short: "print the JSON schema of profiles, for completion in editors", Args: exactArgs(),
		Example: "  ingot profile schema > profile.schema.json",
		RunE: func(*cobra.Command, []string) error {
			b, err := profiles.Schema()
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(b)
			return err
		},
	}
	return group("profile", "work with profiles", schema)
}
