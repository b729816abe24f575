package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/internal/wire"
)

// repository is a server that remembers which files it was given. Files with the word "same" change
// nothing, those with "broken" have faults.
type repository struct {
	api.Backend
	asked []api.DesiredRequest
}

func (r *repository) Version() string { return "test" }

func (r *repository) Desired(context.Context) (api.DesiredState, error) {
	return api.DesiredState{YAML: "machines:\n  - name: n1\n    labels:\n      rack: r1\n", Generation: 3}, nil
}

func (r *repository) ApplyDesired(_ context.Context, q api.DesiredRequest) (api.DesiredPlan, error) {
	r.asked = append(r.asked, q)
	p := api.DesiredPlan{Changes: []api.DesiredChange{}, Basis: "b1", DryRun: q.DryRun, Notes: []string{"n2 stays"}}
	switch text := q.Files[0].Content; {
	case strings.Contains(text, "broken"):
		return p, api.NewProblem(api.CodeInvalidFleet, "a.yaml:1:1: the file is broken; write another one")
	case strings.Contains(text, "same"):
		return p, nil
	case strings.Contains(text, "half") && !q.DryRun:
		p.Problems = []string{"the name n1 was taken"}
	}
	p.Changes = []api.DesiredChange{{Do: "add", Kind: "machine", Name: "n1", What: []string{"approved", "label rack=r1"}},
		{Do: "change", Kind: "policy", Name: "policy"}, {Do: "remove", Kind: "rule", Name: "the rule for mac *"}}
	if !q.DryRun {
		p.Rollouts = []string{"r7"}
	}
	return p, nil
}

// TestApplyCommands: what the command line asks for and says, and its exit codes.
func TestApplyCommands(t *testing.T) {
	r := &repository{}
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	listen(t, l, r, &access.Keeper{Find: nobody, Now: time.Now})
	for name, text := range map[string]string{"fleet/a.yaml": "changes", "fleet/b/c.yml": "", "fleet/.git/d.yaml": "",
		"fleet/README.md": "", "same.yaml": "same", "broken.yaml": "broken", "half.yaml": "half", "empty/x.txt": ""} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const lines = "+ machine n1: approved; label rack=r1\n~ policy\n- rule the rule for mac *\nnote: n2 stays\n"
	for _, c := range []struct {
		command string
		code    int
		out     string // standard output
		err     string // in standard error
	}{
		{"diff -f fleet", 1, lines, ""},
		{"diff -f same.yaml", 0, "note: n2 stays\nno changes\n", ""},
		{"diff -f broken.yaml", 2, "", "a.yaml:1:1: the file is broken; write another one\n  → nothing was changed"},
		{"diff", 2, "", "-f FILE"},
		{"diff -f missing.yaml", 2, "", "there is no file or folder"},
		{"diff -f empty", 2, "", "no .yaml, .yml or .json file is below"},
		{"apply -f fleet --dry-run", 0, lines, ""},
		{"apply -f fleet", 2, lines, "give --yes"},
		{"apply -f fleet --yes", 0, lines + "3 changes made\nrollout r7 was started: ingot rollout show r7\n", ""},
		{"apply -f same.yaml", 0, "note: n2 stays\nno changes\n", ""},
		{"apply -f half.yaml --yes", 1, lines + "3 changes made\nrollout r7 was started: ingot rollout show r7\n",
			"the name n1 was taken\n  → the rest was done"},
		{"apply -f broken.yaml --yes", 1, "", "the file is broken"},
		{"apply -f fleet --forget", 2, "", "--forget needs --prune"},
		{"get", 0, "machines:\n  - name: n1\n    labels:\n      rack: r1\n", ""},
		{"get -o yaml", 0, "machines:\n  - name: n1\n    labels:\n      rack: r1\n", ""},
		{"rollout ls -o yaml", 2, "", "unknown output format"},
		{"fleet check -f broken.yaml", 1, "", "broken.yaml:1:1"},
	} {
		args := strings.Fields(c.command)
		for i, a := range args {
			if i > 0 && args[i-1] == "-f" {
				args[i] = filepath.Join(dir, a)
			}
		}
		code, stdout, stderr := invoke(t, append(args, "--server", "unix://"+socket)...)
		if code != c.code || stdout != c.out || !strings.Contains(stderr, c.err) || c.err == "" && stderr != "" {
			t.Errorf("ingot %s = %d\n%s%s; want %d, %q, %q", c.command, code, stdout, stderr, c.code, c.out, c.err)
		}
	}
	r.asked = nil
	if code, _, stderr := invoke(t, "apply", "-f", filepath.Join(dir, "fleet"), "--prune", "--forget", "--force",
		"--retry", "--yes", "--server", "unix://"+socket); code != 0 || len(r.asked) != 2 {
		t.Fatalf("%d, %s; it asked %d times", code, stderr, len(r.asked))
	}
	first, second := r.asked[0], r.asked[1]
	if q := second; !first.DryRun || q.DryRun || q.Basis != "b1" || !q.Prune || !q.Forget || !q.Force || !q.Retry ||
		len(q.Files) != 2 || q.Files[0].Name != filepath.Join(dir, "fleet/a.yaml") ||
		q.Files[1].Name != filepath.Join(dir, "fleet/b/c.yml") {
		t.Errorf("it asks for %+v, then for %+v", first, second)
	}
	asJSON(t, socket, dir)
}

// asJSON: programs get the plan and the fleet as JSON, of which the latter can be applied.
func asJSON(t *testing.T, socket, dir string) {
	t.Helper()
	var p api.DesiredPlan
	code, stdout, _ := invoke(t, "diff", "-f", filepath.Join(dir, "fleet"), "-o", "json", "--server", "unix://"+socket)
	if err := json.Unmarshal([]byte(stdout), &p); err != nil || code != 1 || p.Basis != "b1" || len(p.Changes) != 3 {
		t.Errorf("diff -o json = %d, %v\n%s", code, err, stdout)
	}
	code, stdout, _ = invoke(t, "get", "-o", "json", "--server", "unix://"+socket)
	var fleet struct {
		Machines []struct {
			Name   string            `json:"name"`
			Labels map[string]string `json:"labels"`
		} `json:"machines"`
	}
	if err := json.Unmarshal([]byte(stdout), &fleet); err != nil || code != 0 || len(fleet.Machines) != 1 ||
		fleet.Machines[0].Labels["rack"] != "r1" {
		t.Errorf("get -o json = %d, %v\n%s", code, err, stdout)
	}
	p = api.DesiredPlan{}
	code, stdout, _ = invoke(t, "apply", "-f", filepath.Join(dir, "fleet"), "--yes", "-o", "json", "--server",
		"unix://"+socket)
	if err := json.Unmarshal([]byte(stdout), &p); err != nil || code != 0 || p.DryRun {
		t.Errorf("apply -o json = %d, %v\n%s", code, err, stdout)
	}
}

// TestApplyThroughKill: the real server is killed with SIGKILL while machines follow desired state. It goes
// on when it is back, by itself, until all machines are as the file says; what it then prints as the fleet
// changes nothing.
func TestApplyThroughKill(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in a network namespace")
	}
	wire.Need(t)
	f := newField(t, 2<<20)
	f.serve()
	var b strings.Builder
	const machines = 6000
	b.WriteString("machines:\n")
	for i := range machines {
		fmt.Fprintf(&b, "  - {name: n%04d, macs: '02:00:00:00:%02x:%02x', labels: {rack: r%d}}\n", i, i>>8, i&255, i/40)
	}
	q := api.DesiredRequest{Files: []api.DesiredFile{{Name: "fleet.yaml", Content: b.String()}}}
	interrupted := make(chan error, 1)
	go func() {
		_, err := f.api().ApplyDesired(f.ctx, q)
		interrupted <- err
	}()
	known := func() int {
		list, err := f.api().MachinesBrief(f.ctx)
		if err != nil {
			return 0
		}
		n := 0
		for _, m := range list {
			if strings.HasPrefix(m.Name, "n") && m.Labels["rack"] != "" {
				n++
			}
		}
		return n
	}
	f.until("some machines to follow", func() bool { return known() > 0 })
	if err := f.server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-f.ended
	if err := <-interrupted; err == nil {
		t.Fatal("all machines had followed before the server was killed")
	}
	f.serve()
	f.until("the other machines to follow", func() bool {
		s, err := f.api().Desired(f.ctx)
		return err == nil && s.Generation == 1 && !s.Following
	})
	if n := known(); n != machines {
		t.Errorf("%d machines are as the file says; want %d", n, machines)
	}
	socket := "unix://" + filepath.Join(f.store, "ingot.sock")
	code, printed, stderr := call(t, "", "get", "-o", "yaml", "--server", socket)
	if code != 0 || stderr != "" {
		t.Fatalf("get = %d: %s", code, stderr)
	}
	for what, text := range map[string]string{"the file": b.String(), "what get prints": printed} {
		code, out, stderr := call(t, text, "apply", "-f", "-", "--dry-run", "--server", socket)
		if code != 0 || out != "no changes\n" {
			t.Errorf("%s: apply --dry-run = %d: %.300s%s", what, code, out, stderr)
		}
	}
	changed := strings.Replace(printed, "rack: r0", "rack: r99", 1)
	if code, out, stderr := call(t, changed, "diff", "-f", "-", "--server", socket); code != 1 ||
		out != "~ machine n0000: label rack=r99 set (was r0)\n" {
		t.Errorf("diff of a changed label = %d: %.300s%s", code, out, stderr)
	}
	if code, out, stderr := call(t, changed, "apply", "-f", "-", "--yes", "--server", socket); code != 0 ||
		!strings.HasSuffix(out, "\n1 change made\n") {
		t.Errorf("apply of a changed label = %d: %.300s%s", code, out, stderr)
	}
	if code, out, _ := call(t, changed, "diff", "-f", "-", "--server", socket); code != 0 || out != "no changes\n" {
		t.Errorf("diff after that = %d: %.300s", code, out)
	}
}
