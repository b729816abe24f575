// Package images has the commands of ingot that work with the images of a store:
// image and key. Building one is in package build.
package images

import (
	"github.com/spf13/cobra"

	"ingot/cmd/ingot/command"
)

// Commands are the commands of this package.
type Commands struct{ *command.App }

// New returns the commands.
func New(a *command.App) *Commands { return &Commands{a} }

// All are the commands of the group images.
func (a *Commands) All() []*cobra.Command {
	return []*cobra.Command{a.imageCommand(), a.keyCommand()}
}
