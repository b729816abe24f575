//go:build e2e

package testvm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/api"
)

// older is the last commit before images authenticated their reports, and before the state's schema 2.
const older = "437beb1"

// TestSceneOlderImages: what the program of before made goes on. Its server is replaced by today's while a machine
// runs. Its images boot, fail and are healed; they are shown as not authenticated, and refused where the
// configuration requires it.
func TestSceneOlderImages(t *testing.T) {
	requireAll(t)
	t.Parallel()
	program := olderProgram(t)
	s := newStageFor(t, 25*time.Minute) // four boots of an older image
	if err := os.RemoveAll(s.store); err != nil {
		t.Fatal(err)
	}
	today := s.program
	s.program = program
	s.run("loaders")
	good := s.file("v1.yaml", "name: lab\nextends: lab\n")
	s.run("build", good, "--version", "v1")
	bad := s.file("bad.yaml", "name: lab\nextends: lab\nchecks: [{name: broken, command: [/bin/false], within: 2s}]\n")
	s.run("build", bad, "--version", "bad")
	s.router()
	s.serveOn("--interface", Bridge, "--approve-all", "--image", "lab:v1") // it has no --mode
	vm := s.vm(UEFI, 1)
	s.healthy(vm, 1, "lab:v1")
	s.login(vm)

	s.killServer()
	s.program = today
	s.serve("--approve-all", "--image", "lab:v1")
	served := time.Now()
	m := s.machine(vm, "a report to the new server", func(m api.Machine) bool { return m.LastSeen.After(served) })
	if m.Authenticated {
		t.Error("the reports of an image of before are shown as authenticated")
	}
	if out := s.run("machine", "show", vm.id()); !strings.Contains(out, "not authenticated") {
		t.Errorf("machine show does not say that reports are not authenticated:\n%s", out)
	}
	s.run("assign", vm.id(), "lab:bad")
	s.reboot(vm)
	s.heals(vm, 2, "lab:bad", "check broken failed")

	s.killServer()
	s.login(vm)
	s.serve("--config", s.file("required.yaml", "boots: {authenticated: required, approveAll: true}\n"))
	s.reboot(vm)
	s.until("the refusal of an image of before", func() bool {
		return strings.Contains(words(s.run("why", vm.id())), "cannot authenticate its reports")
	})
}

// olderProgram builds the program of before, in a folder.
func olderProgram(t *testing.T) (ingot string) {
	t.Helper()
	if err := exec.Command("git", "cat-file", "-e", older+"^{commit}").Run(); err != nil {
		t.Skipf("the history of this checkout does not reach back to %s", older)
	}
	dir := t.TempDir()
	for _, command := range []string{
		"git -C .. archive " + older + " | tar -x -C " + dir,
		"cd " + dir + " && CGO_ENABLED=0 go build -trimpath -buildvcs=false -o bin/ ./cmd/ingot ./cmd/ingot-init",
	} {
		if out, err := exec.CommandContext(t.Context(), "sh", "-c", command).CombinedOutput(); err != nil {
			t.Fatalf("building the program of before: %v\n%s", err, out)
		}
	}
	return filepath.Join(dir, "bin", "ingot")
}
