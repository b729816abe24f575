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
var errDiffers = errors.New("the image is not what its plan gives today")

func (a *Commands) verifyCommand() *cobra.Command {
	var f buildFlags
	c := &cobra.Command{
		Use: "verify IMAGE", Short: "build an image's plan once more and compare every bit",
		Long: `Rebuild an image from the plan that is recorded in it, with nothing cached but
packages, and compare everything bit by bit: kernel, initramfs, root, UKI and manifest.
Where they differ, the first file that differs is named, and how; the exit code is 1.
What the plan pins and no mirror has (files of the profile's folder, ingot-init, public
keys) is taken from the image itself, so an image of another store can be verified, too.
` + command.ImageHelp,
		Example: "  ingot verify node:2026.11.24-1\n  ingot verify node --offline\n  ingot verify node -o json | jq '.parts[] | select(.why)'", Args: command.ExactArgs("IMAGE"),
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
				return show.WithHint(errDiffers, "keep both for comparison; the plan is in: ingot image inspect %s -o json", im.Name)
			}
			return nil
		},
	}
	f.addMirror(c)
	c.Flags().BoolVar(&f.offline, "offline", false, "use packages that are cached, ask no mirror")
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
		fmt.Fprintf(w, "%s is what its plan %s gives: every bit the same, rebuilt in %s\n", im.Name, v.Plan.Short(), show.Seconds(took))
	}
}
