package initrd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"ingot"
	"ingot/rootfs/volumes"
)

// identityDir keeps what makes the machine itself, in ingot's folder on the identity volume.
const identityDir = "identity"

// hostKey is the one SSH host key that we make; paths in the root.
const hostKey = "etc/ssh/ssh_host_ed25519_key"

// giveIdentity sets host name, machine-id and SSH host keys of the mounted
// root. With a volume they are kept there and outlive every image; without
// one, the machine-id is the server's and the host keys are new at each boot.
func giveIdentity(
	ctx context.Context,
	t ingot.Ticket,
	m *ingot.ImageManifest,
	results []volumes.Result,
	mac, serial string,
) error {
	hostname := hostName(m.Hostname, t.Hostname, mac, serial)
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("setting the host name %q: %w", hostname, err)
	}
	if err := writeRoot("etc/hostname", hostname+"\n", 0o644); err != nil {
		return err
	}
	if err := addHosts(hostname); err != nil {
		return err
	}
	kept, err := keptIdentity(sysroot, results)
	if err != nil {
		return fmt.Errorf("opening the identity: %w", err)
	}
	if err := machineID(kept, t.MachineKey); err != nil {
		return err
	}
	return sshKeys(ctx, kept)
}

// hostName fills in the profile's template and keeps what may be in a host
// name (RFC 1123 section 2.1).
func hostName(template, name, mac, serial string) string {
	if template == "" {
		template = "{name}"
	}
	s := strings.NewReplacer("{name}", name, "{mac}", strings.ReplaceAll(mac, ":", ""), "{serial}", serial).
		Replace(template)
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '.':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, s)
	s = strings.Trim(s[:min(len(s), 63)], "-.")
	if s == "" {
		return "localhost"
	}
	return s
}

// keptIdentity is the folder on the identity volume, or "" without one. A service that owns the volume
// cannot have made it.
func keptIdentity(root string, results []volumes.Result) (string, error) {
	for _, r := range results {
		if r.Spec.Identity && r.Mounted() {
			own, err := volumes.OwnFolder(filepath.Join(root, r.Spec.Mount))
			return filepath.Join(own, identityDir), err
		}
	}
	return "", nil
}

// machineID writes /etc/machine-id (machine-id(5)) from the volume, or stores
// the server's there at the first boot with it.
func machineID(kept, fromServer string) error {
	id := fromServer
	if kept != "" {
		if err := os.MkdirAll(filepath.Join(kept, "ssh"), 0o700); err != nil {
			return fmt.Errorf("storing the identity: %w", err)
		}
		file := filepath.Join(kept, "machine-id")
		b, err := os.ReadFile(file)
		switch {
		case err == nil && len(strings.TrimSpace(string(b))) == 32:
			id = strings.TrimSpace(string(b))
		case err == nil || errors.Is(err, fs.ErrNotExist):
			if err := replaceFile(file, id+"\n", 0o444); err != nil {
				return fmt.Errorf("storing the machine-id: %w", err)
			}
		default:
			return fmt.Errorf("reading the stored machine-id: %w", err)
		}
	}
	return writeRoot("etc/machine-id", id+"\n", 0o444)
}

// sshKeys brings host keys from the volume, or makes them with the root's own
// ssh-keygen and keeps them. A root without SSH needs none.
func sshKeys(ctx context.Context, kept string) error {
	target := filepath.Join(sysroot, hostKey)
	if _, err := os.Stat(filepath.Dir(target)); err != nil {
		return nil //nolint:nilerr // no SSH server in this image
	}
	if kept != "" {
		if ok, err := copyKeys(filepath.Join(kept, "ssh", filepath.Base(hostKey)), target); ok || err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(sysroot, "usr/bin/ssh-keygen")); err != nil {
		return nil //nolint:nilerr // likewise
	}
	cmd := exec.CommandContext(
		ctx,
		"/usr/bin/ssh-keygen",
		"-q",
		"-t",
		"ed25519",
		"-N",
		"",
		"-C",
		"ingot",
		"-f",
		"/"+hostKey,
	)
	cmd.Path, cmd.Err = "/usr/bin/ssh-keygen", nil // inside the root
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: sysroot}
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("generating the SSH host key: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if kept == "" {
		return nil
	}
	_, err := copyKeys(target, filepath.Join(kept, "ssh", filepath.Base(hostKey)))
	return err
}

// copyKeys copies a secret key and its public half, the secret last, so that a
// pair is whole or absent. ok reports whether there was one.
func copyKeys(from, to string) (ok bool, err error) {
	secret, err := os.ReadFile(from)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the SSH host key: %w", err)
	}
	public, err := os.ReadFile(from + ".pub")
	if err != nil {
		return false, fmt.Errorf("reading the SSH host key: %w", err)
	}
	if err := replaceFile(to+".pub", string(public), 0o644); err != nil {
		return false, fmt.Errorf("writing the SSH host key: %w", err)
	}
	if err := replaceFile(to, string(secret), 0o600); err != nil {
		return false, fmt.Errorf("writing the SSH host key: %w", err)
	}
	return true, nil
}

// replaceFile writes a file under a temporary name, syncs and renames it.
func replaceFile(path, content string, mode os.FileMode) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// writeRoot writes a file of the new root, into its overlay.
func writeRoot(name, content string, mode os.FileMode) error {
	path := filepath.Join(sysroot, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("writing /%s: %w", name, err)
	}
	if err := replaceFile(path, content, mode); err != nil {
		return fmt.Errorf("writing /%s: %w", name, err)
	}
	return nil
}

// addHosts makes the machine's own name resolve without DNS (hosts(5)).
func addHosts(hostname string) error {
	b, err := os.ReadFile(filepath.Join(sysroot, "etc/hosts"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading /etc/hosts: %w", err)
	}
	text := string(b)
	if !strings.Contains(text, "localhost") {
		text += "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
	}
	return writeRoot("etc/hosts", text+"127.0.1.1 "+hostname+"\n", 0o644)
}
