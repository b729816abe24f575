//go:build e2e

package testvm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
)

// armProfile is the lab for arm64 machines.
const armProfile = `name: arm
extends: lab
arch: arm64
kernel:
  package: linux-image-cloud-arm64
  arguments: [console=ttyAMA0, panic=10]
files:
  - path: /etc/systemd/system/serial-getty@ttyAMA0.service.d/autologin.conf
    content: |
      [Service]
      ExecStart=
      ExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - $TERM
`

// TestSceneARM64: an image for arm64 is built here, its packages configured
// under emulation, and an emulated arm64 machine boots it to healthy: by PXE
// through the arm64 loader, and by HTTP into the UKI.
func TestSceneARM64(t *testing.T) {
	requireAll(t)
	t.Parallel()
	foreignPrograms(t)
	dir := t.TempDir()
	init := filepath.Join(dir, "ingot-init")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "nethttpomithttp2", "-ldflags", "-s -w",
		"-o", init, "ingot/cmd/ingot-init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=arm64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building ingot-init for arm64: %v\n%s", err, out)
	}
	profile := filepath.Join(dir, "arm.yaml")
	if err := os.WriteFile(profile, []byte(armProfile), 0o644); err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(dir, "store") // other scenes expect the shared one as it is
	copyStore(t, shared, store)
	start := time.Now() // not on the clock of the scene
	build := ingotCommand(t.Context(), store, "build", profile, "--version", "v1", "--init", init)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building arm:v1: %v\n%s", err, out)
	}
	t.Logf("built arm:v1 in %.1f s", time.Since(start).Seconds())
	for name, http := range map[string]bool{"PXE": false, "HTTP": true} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			s.useStore(store)
			s.serve("--approve-all", "--image", "arm:v1")
			vm := s.start(1, Config{Firmware: ARM64, HTTPBoot: http})
			b := s.healthy(vm, 1, "arm:v1")
			firmware, stage := ingot.FirmwareUEFIarm64, first[ARM64]
			if http {
				firmware, stage = ingot.FirmwareUEFIarm64HTTP, api.FirstUKI
			}
			if b.Firmware != firmware || b.First != stage {
				t.Errorf("the boot is of firmware %q by %q; want %q by %q", b.Firmware, b.First, firmware, stage)
			}
			s.login(vm)
			if got := s.at(vm, "uname -m"); got != "aarch64" {
				t.Errorf("uname -m = %q; want aarch64", got)
			}
		})
	}
}

// foreignPrograms lets the kernel run programs for arm64 by emulation, as the
// package qemu-user-static sets it up on hosts where systemd runs.
func foreignPrograms(t *testing.T) {
	t.Helper()
	const registry = "/proc/sys/fs/binfmt_misc"
	if _, err := os.Stat(registry + "/register"); err != nil {
		mount := exec.CommandContext(t.Context(), "mount", "-t", "binfmt_misc", "none", registry)
		if out, err := mount.CombinedOutput(); err != nil {
			t.Fatalf("programs for arm64 cannot be run here: %v: %s", err, out)
		}
		t.Cleanup(func() { _ = exec.Command("umount", registry).Run() }) // somebody may use it by now
	}
	if _, err := os.Stat(registry + "/qemu-aarch64"); err == nil {
		return
	}
	rule, err := os.ReadFile("/usr/lib/binfmt.d/qemu-aarch64.conf")
	if err != nil {
		t.Fatalf("%v; run scripts/setup all", err)
	}
	if err := os.WriteFile(registry+"/register", []byte(strings.TrimSpace(string(rule))), 0); err != nil {
		t.Fatalf("letting the kernel run programs for arm64: %v", err)
	}
	t.Cleanup(func() { _ = os.WriteFile(registry+"/qemu-aarch64", []byte("-1"), 0) })
}
