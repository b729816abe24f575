package main

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ingot"
	"ingot/internal/wire"
	"ingot/rootfs"
)

// TestKilledAgent kills the agent of a healthy machine with SIGKILL while a unit has failed,
// as the kernel does when it runs out of memory. The agent that the service manager starts
// next only reports.
func TestKilledAgent(t *testing.T) {
	if !wire.On(t, "go") {
		return
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "ingot-init")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	// A service manager of which the folder says which units failed, and that keeps what it is asked.
	manager := "#!/bin/sh\necho \"$*\" >>" + dir + "/asked\ncase \"$1\" in\n" +
		"show) [ -e " + dir + "/failed ] && echo degraded || echo running ;;\n" +
		"list-units) cat " + dir + "/failed 2>/dev/null ;;\nesac\nexit 0\n"
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(manager), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	var healthy, unhealthy atomic.Int32
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var p ingot.Report
		switch {
		case !strings.HasSuffix(r.URL.Path, "/report") || json.NewDecoder(r.Body).Decode(&p) != nil:
		case p.Healthy:
			healthy.Add(1)
		default:
			unhealthy.Add(1)
		}
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	root := []byte("the root")
	h := rootfs.Handover{Server: "http://" + l.Addr().String(), RootDevice: filepath.Join(dir, "loop0"),
		Ticket: ingot.Ticket{Boot: ingot.NewBootID([16]byte{1}), Restart: true, Heartbeat: 200 * time.Millisecond},
		Image: ingot.ImageManifest{Root: ingot.Artifact{Digest: ingot.DigestOf(root), Size: int64(len(root))},
			Checks: []ingot.Check{{Name: "system", Units: []string{"@system"}, Within: time.Millisecond}}}}
	if err := os.WriteFile(h.RootDevice, root, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(ingot.RunDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := h.Write(ingot.RunDir); err != nil {
		t.Fatal(err)
	}
	start := func() *exec.Cmd {
		cmd := exec.Command(binary, "agent")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	first := start()
	wire.Eventually(t, "the machine is healthy", func() bool { return healthy.Load() > 0 })
	if err := os.WriteFile(filepath.Join(dir, "failed"), []byte("cron.service loaded failed failed cron\n"),
		0o644); err != nil {
		t.Fatal(err)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	again := start()
	defer func() { _ = again.Process.Kill(); _ = again.Wait() }()
	wire.Eventually(t, "the new agent reports the failed unit", func() bool { return unhealthy.Load() > 3 })
	// The agent waits ten seconds before it reboots a machine.
	for range 120 {
		time.Sleep(100 * time.Millisecond)
		asked, _ := os.ReadFile(filepath.Join(dir, "asked"))
		if strings.Contains(string(asked), "reboot") {
			t.Fatalf("the restarted agent rebooted a machine that was healthy; it asked systemd:\n%s", asked)
		}
	}
}
