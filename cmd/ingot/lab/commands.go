// Package lab has the commands of ingot that run virtual machines: lab and demo;
// and the trial of ingot doctor. It is the only part of ingot that imports testvm.
package lab

import (
	"context"

	"github.com/spf13/cobra"

	"ingot/cmd/ingot/command"
	"ingot/image"
)

// Commands are the commands of this package.
type Commands struct {
	*command.App
	build Builder
}

// Builder makes what the machines boot.
type Builder interface {
	// Build returns the image of a profile, built if it is new.
	Build(ctx context.Context, profile, version string) (image.Image, error)
	// FetchLoaders fetches the boot loaders if the store has none yet.
	FetchLoaders(ctx context.Context) error
}

// New returns the commands.
func New(a *command.App, b Builder) *Commands { return &Commands{App: a, build: b} }

// All are the commands of the group lab.
func (a *Commands) All() []*cobra.Command {
	return []*cobra.Command{a.labCommand(), a.demoCommand()}
}
