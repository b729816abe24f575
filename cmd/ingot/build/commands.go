// Package build has the commands of ingot that turn profiles into images: build,
// plan, verify, import and profile; and loaders, which fetches boot loaders.
package build

import (
	"context"

	"github.com/spf13/cobra"

	"ingot/cmd/ingot/command"
	"ingot/image"
)

// Note records in the audit log what was done to an image: its verb, such as
// "build", and the argument of the verb.
type Note func(ctx context.Context, im image.Image, did, with string)

// Commands are the commands of this package.
type Commands struct {
	*command.App
	note Note
}

// New returns the commands; note is called after each change of the store.
func New(a *command.App, note Note) *Commands { return &Commands{App: a, note: note} }

// All are the commands of the group build.
func (a *Commands) All() []*cobra.Command {
	return []*cobra.Command{a.buildCommand(), a.planCommand(), a.verifyCommand(), a.importCommand(), profileCommand(a.App)}
}
