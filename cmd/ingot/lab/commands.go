// Package lab has the commands of ingot that run virtual machines: lab and demo;
// and the trial of ingot doctor. It is the only part of ingot that imports testvm.
package lab

import (
	"github.com/spf13/cobra"

	"ingot/cmd/ingot/build"
	"ingot/cmd/ingot/command"
)

// Commands are the commands of this package.
type Commands struct {
	*command.App
	build *build.Commands
}

// New returns the commands; b builds the images that they boot.
func New(a *command.App, b *build.Commands) *Commands { return &Commands{App: a, build: b} }

// All are the commands of the group lab.
func (a *Commands) All() []*cobra.Command {
	return []*cobra.Command{a.labCommand(), a.demoCommand()}
}
