// Package rootfs holds what the programs on the machine share: the handover from
// ingot-init to the agent in /run/ingot (which survives the switch of root),
// failure codes, the verdict of a boot, and access to SMBIOS, the kernel's log and
// the watchdog.
//
// Left out on purpose: the boot itself (initrd), the running system (agent, guard)
// and disks (volumes).
package rootfs

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"ingot"
)

// Handover is the content of boot.json in ingot.RunDir.
type Handover struct {
	Key        ingot.BootKey       `json:"key,omitempty"` // of the boot, for requests to the server
	Server     string              `json:"server"`        // base URL
	Ticket     ingot.Ticket        `json:"ticket"`
	Image      ingot.ImageManifest `json:"image"`
	RootDevice string              `json:"rootDevice"` // the loop device under the read-only root
	Switched   time.Duration       `json:"switched"`   // uptime at the switch of root
	// what became of the volumes
	Volumes []ingot.VolumeResult `json:"volumes,omitempty"`
	// Secret authenticates messages of the boot; empty if they are not authenticated.
	Secret ingot.BootSecret `json:"secret,omitempty"`
}

const handoverFile = "boot.json"

// Write stores h below dir, readable by root only: the boot's key and secret are credentials.
func (h *Handover) Write(dir string) error {
	b, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the handover: %w", err)
	}
	file := filepath.Join(dir, handoverFile)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return fmt.Errorf("writing the handover: %w", err)
	}
	if err := os.Chmod(file, 0o600); err != nil { // it may have been there with another mode
		return fmt.Errorf("writing the handover: %w", err)
	}
	return nil
}

// ReadHandover reads what Write stored.
func ReadHandover(dir string) (*Handover, error) {
	b, err := os.ReadFile(filepath.Join(dir, handoverFile))
	if err != nil {
		return nil, fmt.Errorf("reading the handover: %w; was this system booted by ingot?", err)
	}
	var h Handover
	if err := json.Unmarshal(b, &h); err != nil {
		return nil, fmt.Errorf("parsing the handover: %w", err)
	}
	return &h, nil
}
