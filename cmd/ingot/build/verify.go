package build

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"ingot/builder/compare"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
)

// errDiffers ends ingot verify with exit code 1 after its table.
var errDiffers = errors.New("the rebuilt image differs")

func (a *Commands) verifyCommand() *cobra.Command {
	var f buildFlags
	c := &cobra.Command{
		Use: "verify IMAGE", Short: "rebuild an image from its plan and compare every bit",
		Long: `Rebuild an image from the plan that is recorded in it, without any cache but the packages, and
compare everything bit by bit: kernel, initramfs, root, UKI and manifest. If they differ, the
first file that differs is named, and the exit code is 1. Inputs that no mirror has (files of
the profile's folder, ingot-init, public keys) are taken from the image itself, so an image of
another store can be verified as well.
` + command.ImageHelp,
		Example: `  ingot verify node:2026.11.24-1
  ingot verify node --offline
  ingot verify node -o json | jq '.parts[] | select(.why)'`, Args: command.ExactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			start := time.Now()
			s, im, err := a.Image(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			env, err := a.env(f)
			if err != nil {
				return err
			}
			bar := a.progress(env)
			v, err := compare.Verify(cmd.Context(), env, s, im)
			if err != nil {
				bar.Abort()
				return show.Explain(cmd.Context(), err)
			}
			bar.Finish()
			if err := a.Show(v, func(w io.Writer) { verdictText(w, im, v, time.Since(start)) }); err != nil {
				return err
			}
			if !v.Same {
				return show.WithHint(errDiffers, "to see the plan, run: ingot image inspect %s -o json", im.Name)
			}
			return nil
		},
	}
	f.addMirror(c)
	c.Flags().BoolVar(&f.offline, "offline", false, "use cached packages, without a mirror")
	return c
}

func verdictText(w io.Writer, im image.Image, v compare.Verdict, took time.Duration) {
	t := show.Table(w)
	show.Row(t, "PART", "IMAGE", "REBUILT", "RESULT")
	for _, p := range v.Parts {
		text := "same"
		if p.Why != "" {
			text = "differs: " + show.Plain(p.Why)
		}
		show.Row(t, p.Name, show.Dash(p.Image.Short()), show.Dash(p.Rebuilt.Short()), text)
	}
	t.Flush()
	if v.Same {
		fmt.Fprintf(w, "%s was rebuilt from its plan %s in %s: every bit the same\n", im.Name, v.Plan.Short(),
			show.Seconds(took))
	}
}
