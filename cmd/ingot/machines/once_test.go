package machines

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"ingot/bootserver/api"
)

// TestOnceFlags: what is for one boot needs --once, and --once needs something to do.
func TestOnceFlags(t *testing.T) {
	for args, want := range map[string]string{
		"node01 lab:v2":                         "",
		"node01 lab:v2 --once":                  "",
		"node01 --once --append a --append b=1": "",
		"node01 lab:v2 --once --shell --for 2h": "",
		"node01 --once --cancel":                "",
		"node01 lab:v2 --append a":              "--append is for one boot: add --once",
		"node01 lab:v2 --shell":                 "--shell is for one boot",
		"node01 lab:v2 --for 1h":                "--for is for one boot",
		"node01 --cancel":                       "--cancel is for one boot",
		"node01 --once":                         "--once needs IMAGE, --append or --shell",
		"node01 lab:v2 --once --cancel":         "give it alone",
		"node01 --once --cancel --append a":     "give it alone",
	} {
		var o onceFlags
		c := &cobra.Command{Use: "assign"}
		o.add(c)
		if err := c.ParseFlags(strings.Fields(args)); err != nil {
			t.Fatal(err)
		}
		err := o.check(c)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("assign %s: %v; want %q", args, err, want)
		}
	}
}

// TestOnceIsShown in the table of machines, and in the details of one.
func TestOnceIsShown(t *testing.T) {
	m := api.Machine{ID: "m-1", Assignment: api.Assignment{ImageRef: api.ImageRef{Name: "lab:v1"}}, Once: &api.Once{
		ImageRef: api.ImageRef{Name: "rescue:1"}, Arguments: []string{"a=1"}, Shell: true, Limit: time.Hour, Why: "look"}}
	var s strings.Builder
	machineTable(&s, []api.Machine{m}, time.Now())
	machineDetails(&s, m, time.Now())
	for _, want := range []string{"lab:v1 (once: rescue:1)",
		"rescue:1 with kernel arguments a=1 and a shell in the initramfs, once, healthy within 1h0m0s, look"} {
		if !strings.Contains(s.String(), want) {
			t.Errorf("there is no %q in\n%s", want, &s)
		}
	}
}
