package build

import (
	"github.com/spf13/cobra"

	"ingot/cmd/ingot/command"
	"ingot/profiles"
)

func profileCommand(a *command.App) *cobra.Command {
	schema := &cobra.Command{
		Use: "schema", Short: "print the JSON schema of profiles, for editors", Args: command.ExactArgs(),
		Example: "  ingot profile schema > profile.schema.json",
		RunE: func(*cobra.Command, []string) error {
			b, err := profiles.Schema()
			if err != nil {
				return err
			}
			_, err = a.Stdout.Write(b)
			return err
		},
	}
	return command.Parent("profile", "print the schema of profiles", "  ingot profile schema > profile.schema.json",
		schema)
}
