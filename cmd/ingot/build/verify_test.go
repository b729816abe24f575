package build

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/builder"
	"ingot/builder/compare"
	"ingot/cmd/ingot/show"
	"ingot/image"
)

// TestVerdictNamesPaths: the paths that differ are listed, and what package scripts make at random,
// which fails a verification unless the profile allows it.
func TestVerdictNamesPaths(t *testing.T) {
	root := compare.Part{Name: "root", Why: "/etc/key: content, from byte 28 on", Files: []compare.FileChange{
		{Path: "etc/key", How: "content, from byte 28 on"}, {Path: "etc/seed", How: "content, from byte 0 on"}}}
	many := compare.Part{Name: "root", Why: "/a0: added"}
	for i := range maxListed + 3 {
		many.Files = append(many.Files, compare.FileChange{Path: fmt.Sprintf("a%d", i), How: "added"})
	}
	allowed, refused := builder.RandomPath{Path: "/etc/key", Allowed: "a test"}, builder.RandomPath{Path: "/etc/seed"}
	for name, c := range map[string]struct {
		v    compare.Verdict
		said []string
		err  error
		hint string
	}{
		"the same": {compare.Verdict{Same: true}, []string{"every bit the same\n"}, nil, ""},
		"altered": {compare.Verdict{Parts: []compare.Part{root}}, []string{"2 paths of the root differ:\n  /etc/key: " +
			"content, from byte 28 on\n  /etc/seed: content"}, errDiffers, "ingot image inspect node:v1"},
		"many paths": {compare.Verdict{Parts: []compare.Part{many}}, []string{"43 paths of the root differ:\n",
			"\n  /a39: added\n  and 3 more; -o json lists all\n"}, errDiffers, "ingot image inspect"},
		"random": {compare.Verdict{Parts: []compare.Part{root}, Random: []builder.RandomPath{allowed, refused}},
			[]string{"at random; they differ between two runs:\n  /etc/key (allowed: a test)\n  /etc/seed\n"}, errDiffers,
			`package scripts make files at random: leave out what makes them, or allow each in the profile, with the ` +
				`reason: secrets: {allow: [{path: "/etc/seed", reason: "…"}]}`},
		"random and allowed": {compare.Verdict{Parts: []compare.Part{root}, Random: []builder.RandomPath{allowed,
			{Path: "/etc/seed", Allowed: "a test"}}}, []string{"/etc/seed (allowed: a test)"}, errDiffers,
			"only what package scripts make at random differs"},
		"random and altered": {compare.Verdict{Parts: []compare.Part{root}, Random: []builder.RandomPath{allowed}},
			[]string{"/etc/seed: content"}, errDiffers, "ingot image inspect node:v1"},
		"random, and another kernel": {compare.Verdict{Parts: []compare.Part{{Name: "kernel", Why: "from byte 5 on"},
			{Name: "root", Files: root.Files[:1]}}, Random: []builder.RandomPath{allowed}}, []string{"from byte 5 on"},
			errDiffers, "ingot image inspect node:v1"},
		"random, but the same this time": {compare.Verdict{Same: true, Random: []builder.RandomPath{refused}},
			[]string{"two runs:\n  /etc/seed\n"}, errRandom, "secrets: {allow:"},
		"allowed, and the same this time": {compare.Verdict{Same: true, Random: []builder.RandomPath{allowed}},
			[]string{"every bit the same"}, nil, ""},
	} {
		im := image.Image{Name: ingot.ImageName{Profile: "node", Version: "v1"}}
		var said bytes.Buffer
		verdictText(&said, im, c.v, time.Second)
		for _, want := range c.said {
			if !strings.Contains(said.String(), want) {
				t.Errorf("%s: ingot verify says\n%s\nwant %q in it", name, said.String(), want)
			}
		}
		err := verdictError(im, c.v)
		var hint show.HintError
		if !errors.Is(err, c.err) || c.err != nil && (!errors.As(err, &hint) || !strings.Contains(hint.Hint, c.hint)) {
			t.Errorf("%s: the error is %v (%s); want %v (%s)", name, err, hint.Hint, c.err, c.hint)
		}
	}
}

// TestNotRepeated: for an image that another version of ingot built, the next step is said.
func TestNotRepeated(t *testing.T) {
	im := image.Image{Name: ingot.ImageName{Profile: "node", Version: "v1"}}
	for _, err := range []error{builder.ErrOlderIngot, fmt.Errorf("verifying: %w", builder.ErrOtherIngot)} {
		var hint show.HintError
		if !errors.As(notRepeated(im, err), &hint) || !strings.Contains(hint.Hint, "ingot build node;") ||
			!strings.Contains(hint.Hint, "ingot image verify node:v1") {
			t.Errorf("the next step after %q is %q; want both commands", err, hint.Hint)
		}
	}
	if err := notRepeated(im, errDiffers); err != errDiffers {
		t.Errorf("another error became %v", err)
	}
}
