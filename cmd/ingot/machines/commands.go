// Package machines has the commands of ingot about machines and their boots:
// machine, boots, why, console and grant for each machine; assign, rollback,
// resume, rollout, events, and apply, diff and get of desired state for the fleet.
package machines

import (
	"github.com/spf13/cobra"

	"ingot/cmd/ingot/command"
)

// Commands are the commands of this package.
type Commands struct{ *command.App }

// New returns the commands.
func New(a *command.App) *Commands { return &Commands{a} }

// Machines are the commands of the group machines.
func (a *Commands) Machines() []*cobra.Command {
	return []*cobra.Command{a.machineCommand(), a.bootsCommand(), a.whyCommand(), a.consoleCommand(), a.grantCommand(),
		a.captureCommand()}
}

// Fleet are the commands of the group fleet.
func (a *Commands) Fleet() []*cobra.Command {
	return []*cobra.Command{a.applyCommand(), a.diffCommand(), a.getCommand(), a.fleetCommand(), a.rolloutCommand(),
		a.assignCommand(), a.rollbackCommand(), a.resumeCommand(),
		a.eventsCommand()}
}
