package main

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ingot/bootserver"
	"ingot/bootserver/config"
	"ingot/cmd/ingot/build"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/doctor"
	"ingot/cmd/ingot/images"
	"ingot/cmd/ingot/lab"
	"ingot/cmd/ingot/machines"
	"ingot/cmd/ingot/show"
)

// app has the commands of the group server as methods.
type app struct {
	*command.App
	images *images.Commands
	build  *build.Commands
	lab    *lab.Commands
}

const rootLong = `ingot turns a short profile into a read-only operating-system image and
network-boots machines into it. An upgrade is a reboot, a rollback is a reboot,
data lives on volumes that booting cannot destroy.`

const rootExample = `  ingot build lab --version v1              # profile → image lab:v1
  ingot serve --interface eth1              # DHCP, TFTP and HTTP on one network
  ingot machine ls                          # lists pending machines
  ingot machine approve m-525400120001 --name node01 --image lab:v1
  ingot boots node01                        # every boot, stage by stage
  ingot assign node01 lab:v2                # upgrade at the next reboot
  ingot rollback node01                     # back to the last healthy image`

const exitCodes = "\nExit codes: 0 done, 1 failed, 2 wrong usage.\n"

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use: "ingot", Short: "build immutable OS images and network-boot machines into them",
		Long: rootLong, Example: rootExample,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	f := root.PersistentFlags()
	f.StringVar(&a.Store, "store", "",
		"folder of images, keys and state (default: $INGOT_STORE, else\n"+
			"/var/lib/ingot for root, ~/.local/share/ingot for others)")
	f.StringVar(&a.Server, "server", "",
		"server: unix:///PATH or https://HOST:PORT (default:\n$INGOT_SERVER, else the context, else that of the store)")
	f.StringVar(&a.Context, "context", "", "context of the server to use (default: $INGOT_CONTEXT, else the current one)")
	f.StringVarP(&a.Format, "output", "o", "table", "output format: table or json")
	f.BoolVarP(&a.Verbose, "verbose", "v", false, "log debug messages to standard error")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return show.UsageError{Err: err} })
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if a.Format != "table" && !a.JSON() && !(a.Format == "yaml" && cmd.Annotations[command.AlsoYAML] != "") {
			return show.Usagef("unknown output format %q: want table or json", a.Format)
		}
		return nil
	}
	root.SetUsageTemplate(usageTemplate(root.UsageTemplate()))
	a.addGroups(root)
	a.completeArguments(root)
	nameBuiltin(root)
	return root
}

// usageTemplate changes cobra's template: lines of flags are wrapped, and the
// help ends with the example and the exit codes.
func usageTemplate(cobras string) string {
	const example = "{{if .HasExample}}\n\nExamples:\n{{.Example}}{{end}}"
	t := strings.Replace(cobras, example, "", 1)
	t = strings.ReplaceAll(t, "Flags.FlagUsages", "Flags.FlagUsagesWrapped 100")
	return strings.TrimRight(t, "\n") + example + "\n" + exitCodes
}

// nameBuiltin describes cobra's own commands as the others are described.
func nameBuiltin(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for name, short := range map[string]string{"help": "show the help of a command",
		"completion": "write the completion script of a shell"} {
		if c, _, err := root.Find([]string{name}); err == nil {
			c.Short = short
		}
	}
}

// addGroups adds the commands, in the groups in which help lists them.
func (a *app) addGroups(root *cobra.Command) {
	m := machines.New(a.App)
	for _, g := range []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"build", "Build:", a.build.All()},
		{"images", "Images:", a.images.All()},
		{"machines", "Machines:", m.Machines()},
		{"fleet", "Fleet:", m.Fleet()},
		{"server", "Server:", []*cobra.Command{a.serveCommand(), a.configCommand(), a.networkCommand(),
			a.dashboardCommand(), a.build.LoadersCommand(), a.backupCommand(), a.restoreCommand(),
			a.contextCommand(), a.tokenCommand(), a.sessionCommand(),
			a.webhookCommand(), a.auditCommand(), a.apiCommand(), a.doctorCommand()}},
		{"lab", "Lab:", a.lab.All()},
	} {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.id
			root.AddCommand(c)
		}
	}
	root.AddCommand(a.versionCommand(), a.manCommand())
}

// doctorCommand wires ingot doctor to what it examines.
func (a *app) doctorCommand() *cobra.Command {
	var f serveFlags
	return doctor.Command(a.App, doctor.Options{
		Flags: func(fl *pflag.FlagSet) {
			a.configFlag(fl, &f.config)
			fl.StringSliceVar(&f.ifaces, "interface", nil, "network interfaces to check (default: those of the configuration)")
			fl.StringSliceVar(&f.ifaces6, "interface6", nil,
				"network interfaces to check for IPv6 (default: those of the configuration)")
		},
		Settings: func(fl *pflag.FlagSet) (config.Config, error) { return a.settings(fl, f) },
		Holder:   bootserver.Holder,
		Trial:    lab.Trial,
	})
}
