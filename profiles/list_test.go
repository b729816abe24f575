package profiles

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestNew: a new profile is one that loads, and is listed with the shipped ones, as one that cannot be read is.
func TestNew(t *testing.T) {
	dir := write(t, map[string]string{"broken/profile.yaml": "name: broken\npakages: []\n", "other/x.yaml": "name: x\n"})
	text, err := New("web", "node")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "web", fileName)
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := Load(path)
	if err != nil || p.Name != "web" || p.Kernel.Package == "" {
		t.Fatalf("Load = %+v, %v; want the profile web with a kernel", p, err)
	}
	list, err := List(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range list {
		got = append(got, strings.Join([]string{l.Name, strings.TrimPrefix(l.Ref, dir+"/"), strings.Join(l.Extends, " "),
			l.Purpose, strings.ReplaceAll(l.Broken, dir+"/", "")}, "|"))
	}
	want := []string{`broken|broken|||broken/profile.yaml:2:1: unknown key "pakages"; write "packages"`,
		"debian|debian||A Debian 13 base: systemd, networkd, resolved, OpenSSH and the agent|"}
	if d := cmp.Diff(want, got[:2]); d != "" {
		t.Errorf("the beginning of the list (-want +got):\n%s", d)
	}
	if last := "web|web|node|What this image is for|"; got[len(got)-1] != last || len(got) != len(Shipped())+2 {
		t.Errorf("the list is %q; want the shipped ones, broken, and at the end %q", got, last)
	}
	if _, err := New("Web Server", "node"); !errors.Is(err, ErrName) || !strings.Contains(err.Error(), "lower-case "+
		"letters") {
		t.Errorf("New of a bad name = %v", err)
	}
}
