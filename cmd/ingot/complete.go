package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ingot/bootserver/fleet"
	"ingot/cmd/ingot/command"
	"ingot/profiles"
)

// completeArguments adds to each command what a shell completes for its
// arguments and flags.
func (a *app) completeArguments(root *cobra.Command) {
	for path, complete := range a.arguments() {
		if c, rest, err := root.Find(strings.Fields(path)); err == nil && len(rest) == 0 {
			c.ValidArgsFunction = complete
		}
	}
	flags := a.flagValues()
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if complete := flags[f.Name]; complete != nil {
				_ = c.RegisterFlagCompletionFunc(f.Name, complete) // an error says that it has one already
			}
		})
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// arguments are the completions of arguments by command.
func (a *app) arguments() map[string]cobra.CompletionFunc {
	var file command.Completion
	one := func(each ...command.Completion) cobra.CompletionFunc { return command.Complete(false, each...) }
	image, onServer, machine := one(a.StoreImages), a.ServerImages, one(a.Machines)
	machines := command.Complete(true, a.Machines)
	profile := cobra.FixedCompletions(profiles.Shipped(), cobra.ShellCompDirectiveDefault)
	return map[string]cobra.CompletionFunc{
		"build": profile, "plan": profile, "profile show": profile, "profile diff": profile, "profile new": one(file),
		"verify": image, "import": one(file),

		"image ls": image, "image inspect": image, "image cat": image, "image verify": image, "image sign": image,
		"image signature": image, "image manifest": image, "image sbom": image, "image tag": image,
		"image packages": image,
		"image rm":       one(a.StoreVersions),
		"image diff":     one(a.StoreImages, a.StoreImages), "image export": one(a.StoreImages, file),
		"image import": one(file), "image push": image, "image pull": one(),
		"key trust": one(file), "key distrust": one(a.StoreKeys),
		"key show": one(a.StoreKeys), "key rotate": one(command.Words("server", "release")),

		"machine ls": machines, "machine show": machines, "machine approve": machines, "machine label": machine,
		"machine rename": machine, "machine retire": machines, "machine forget": machines,
		"machine merge": one(a.Machines, a.Machines), "machine import": one(file),
		"boots": machines, "why": machines, "console": machines, "capture": machines,
		"grant":  a.grantArguments(),
		"assign": one(a.Machines, onServer), "rollback": machine, "resume": machines, "events": machines,

		"rollout start": one(a.ServerImages), "rollout show": one(a.Rollouts), "rollout history": one(a.Rollouts),
		"rollout pause": one(a.Rollouts), "rollout resume": one(a.Rollouts), "rollout abort": one(a.Rollouts),
		"machine pin": machines, "machine off": machines, "machine reboot": machines,

		"backup": one(file), "restore": one(file),
		"context add": one(), "context use": one(command.Contexts), "context rm": one(command.Contexts),
		"webhook create": one(), "webhook edit": one(a.Webhooks), "webhook show": one(a.Webhooks),
		"webhook test":      one(a.Webhooks),
		"webhook redeliver": command.Complete(true, a.Webhooks), "webhook pause": one(a.Webhooks),
		"webhook resume": one(a.Webhooks), "webhook rm": one(a.Webhooks),
		"token create": one(), "token revoke": one(a.Credentials), "session end": one(a.Sessions),
		"lab console": one(a.lab.VMs), "lab power": one(a.lab.VMs, command.Words("on", "off", "cycle", "reset")),
		"lab storm-machines": one(), "man": one(file),
	}
}

// grantArguments completes a machine, and the volumes that it has grants for: those can be withdrawn.
func (a *app) grantArguments() cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		volumes := func(ctx context.Context) (values []cobra.Completion) {
			m, err := a.Client().Machine(ctx, args[0])
			if err != nil {
				return nil
			}
			for _, g := range m.Grants {
				if g.Boot == "" && !g.Over {
					values = append(values, cobra.CompletionWithDesc(g.Volume, g.Disk))
				}
			}
			return values
		}
		return command.Complete(false, a.Machines, volumes)(cmd, args, typed)
	}
}

// flagValues are the completions of the values of flags, by name.
func (a *app) flagValues() map[string]cobra.CompletionFunc {
	words := func(list ...string) cobra.CompletionFunc { return command.CompleteFlag(command.Words(list...)) }
	return map[string]cobra.CompletionFunc{
		"output": words("table", "json"), "scope": words("read", "operate", "admin"),
		"format": words("oci", "raw", "iso"), "arch": words("amd64", "arm64"),
		"mode":    words("full", "proxy", "observe"),
		"how":     words("auto", "reboot", "next-boot"),
		"events":  words(fleet.Topics()...),
		"extends": words(profiles.Shipped()...),
		"drain":   words("required", "best-effort"),
		"context": command.CompleteFlag(command.Contexts), "image": command.CompleteFlag(a.ServerImages),
	}
}
