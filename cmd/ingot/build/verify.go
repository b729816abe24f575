package build

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"ingot/builder"
	"ingot/builder/compare"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
)

// Errors that end ingot verify with exit code 1 after its table.
var (
	errDiffers = errors.New("the rebuilt image differs")
	errRandom  = errors.New("another build can differ")
)

func (a *Commands) verifyCommand() *cobra.Command {
	var f buildFlags
	c := &cobra.Command{
		Use: "verify IMAGE", Short: "rebuild an image from its plan and compare every bit",
		Long: `Rebuild an image from the plan that is recorded in it, without any cache but the packages, and
compare everything bit by bit: kernel, initramfs, root, UKI and manifest. If they differ, the
paths that differ are listed, and the exit code is 1. Inputs that no mirror has (files of
the profile's folder, ingot-init, public keys) are taken from the image itself, so an image of
another store can be verified as well. An image can be rebuilt only by the version of ingot
that built it, or by one that builds the same of its plan: others are refused.

The package scripts run twice, and what they make at random is listed, too: it explains a
difference, and fails the verification unless the profile allows it. The result of the second
run is cached for the packages of the plan, and shared with ingot build --check.
` + command.ImageHelp,
		Example: `  ingot verify node:2026.11.24-1
  ingot verify node --offline
  ingot verify node -o json | jq '.parts[] | select(.why)'
  ingot verify node -o json | jq -r '.random[]?.path'`, Args: command.ExactArgs("IMAGE"),
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
				return show.Explain(cmd.Context(), notRepeated(im, err))
			}
			bar.Finish()
			if err := a.Show(v, func(w io.Writer) { verdictText(w, im, v, time.Since(start)) }); err != nil {
				return err
			}
			return verdictError(im, v)
		},
	}
	f.addMirror(c)
	c.Flags().BoolVar(&f.offline, "offline", false, "use cached packages, without a mirror")
	return c
}

// notRepeated adds the next step for an image that another version of ingot built.
func notRepeated(im image.Image, err error) error {
	if errors.Is(err, builder.ErrOlderIngot) || errors.Is(err, builder.ErrOtherIngot) {
		return show.WithHint(err, "verify it with the ingot that built it, or build it again with this one: ingot build %s; "+
			"to check its files and its signature: ingot image verify %s", im.Name.Profile, im.Name)
	}
	return err
}

// verdictError returns why an image is not verified; nil: it is.
func verdictError(im image.Image, v compare.Verdict) error {
	err := errDiffers
	if v.Same {
		err = errRandom
	}
	switch random := v.Refused(); {
	case len(random) > 0:
		return show.WithHint(err, "package scripts make files at random: leave out what makes them, or allow each in the "+
			"profile, with the reason: secrets: {allow: [{path: %q, reason: \"…\"}]}", random[0].Path)
	case !v.Same && v.OnlyRandom():
		return show.WithHint(err, "only what package scripts make at random differs; to get an image that can be verified, "+
			"leave out what makes it")
	case !v.Same:
		return show.WithHint(err, "to see the plan, run: ingot image inspect %s -o json", im.Name)
	}
	return nil
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
	for _, p := range v.Parts {
		if len(p.Files) > 1 {
			fmt.Fprintf(w, "\n%d paths of the %s differ:\n", len(p.Files), p.Name)
			list(w, p.Files)
		}
	}
	if len(v.Random) > 0 {
		fmt.Fprintf(w, "\npackage scripts make these at random; they differ between two runs:\n")
		list(w, v.Random)
	}
	if v.Same {
		fmt.Fprintf(w, "%s was rebuilt from its plan %s in %s: every bit the same\n", im.Name, v.Plan.Short(),
			show.Seconds(took))
	}
}

// maxListed is the number of paths that a list shows.
const maxListed = 40

// list prints paths, one a line.
func list[T fmt.Stringer](w io.Writer, paths []T) {
	for _, p := range paths[:min(len(paths), maxListed)] {
		fmt.Fprintf(w, "  %s\n", show.Plain(p.String()))
	}
	if more := len(paths) - maxListed; more > 0 {
		fmt.Fprintf(w, "  and %d more; -o json lists all\n", more)
	}
}
