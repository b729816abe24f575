package builder

import (
	"os"
	"slices"
	"strings"
	"testing"

	"ingot"
	"ingot/builder/tree"
	"ingot/profiles"
)

// TestShellIsStatic: what the initramfs starts as a shell needs no library, because there is none.
func TestShellIsStatic(t *testing.T) {
	dynamic, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Skip(err)
	}
	for _, c := range []struct {
		name, at string
		content  []byte
		want     string
	}{
		{"a dynamic one", "usr/bin/busybox", dynamic, "is not static, it needs [libc"},
		{"a script, where packages had it before merged /usr", "bin/busybox", []byte("#!/bin/sh\n"), "reading /bin/busybox"},
		{"none", "usr/bin/other", dynamic, "busybox"},
	} {
		tr := tree.New()
		if err := tr.PutFile(c.at, 0o755, c.content); err != nil {
			t.Fatal(err)
		}
		if _, err := busybox(tr); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
}

// TestFeatures: an image can do what its ingot-init can, and has a shell only if its profile permits one.
func TestFeatures(t *testing.T) {
	yes, no := true, false
	all := []byte("x " + ingot.MarkAuthenticated + "\n" + ingot.MarkArguments + "\n" + ingot.MarkShell)
	for _, c := range []struct {
		name   string
		init   []byte
		permit *bool
		want   []ingot.Feature
	}{
		{"one that takes orders", []byte(ingot.MarkOrders), nil, []ingot.Feature{ingot.FeatureOrders}},
		{"an older ingot-init", []byte("x " + ingot.MarkAuthenticated), &yes, []ingot.Feature{ingot.FeatureAuthenticated}},
		{"by default", all, nil, []ingot.Feature{ingot.FeatureAuthenticated, ingot.FeatureArguments}},
		{"not permitted", all, &no, []ingot.Feature{ingot.FeatureAuthenticated, ingot.FeatureArguments}},
		{"permitted", all, &yes, []ingot.Feature{ingot.FeatureAuthenticated, ingot.FeatureArguments, ingot.FeatureShell}},
	} {
		b := &build{init: c.init, p: &profiles.Profile{RescueShell: c.permit}}
		if got := b.features(); !slices.Equal(got, c.want) {
			t.Errorf("%s: features = %v; want %v", c.name, got, c.want)
		}
	}
}
