package source

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// InstallOptions say how packages become a tree.
type InstallOptions struct {
	Suite    string
	Arch     string
	Epoch    time.Time
	Work     string            // scratch folder, readable by all, removed by the caller
	Progress func(line string) // told what mmdebstrap does; may be nil
}

// excluded is what an image never needs of its packages. Copyright files stay:
// the licences ask for it.
var excluded = []string{
	"path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
	"path-exclude=/usr/share/man/*", "path-exclude=/usr/share/info/*", "path-exclude=/usr/share/lintian/*",
	"path-exclude=/usr/share/bug/*", "path-exclude=/usr/share/locale/*", "path-include=/usr/share/locale/locale.alias",
}

// InstallKey is what the result of Install depends on besides the packages.
func InstallKey() string { return "install-1 " + strings.Join(excluded, " ") }

// Install installs exactly the given packages with mmdebstrap and writes the
// resulting tree to the tar file out. Nothing comes from the network.
func Install(ctx context.Context, c Cache, list []Package, out string, o InstallOptions) error {
	if err := NeedTools("mmdebstrap", "dpkg-deb"); err != nil {
		return err
	}
	repo := filepath.Join(o.Work, "repo")
	if err := makeRepository(ctx, c, list, repo, o); err != nil {
		return fmt.Errorf("preparing the packages: %w", err)
	}
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = p.Name
	}
	mode := "root"
	if os.Geteuid() != 0 {
		mode = "unshare"
		if err := unshareWorks(ctx); err != nil {
			return err
		}
	}
	args := []string{"--mode=" + mode, "--variant=essential", "--format=tar", "--architectures=" + o.Arch, "--include=" + strings.Join(names, ",")}
	for _, e := range excluded {
		args = append(args, "--dpkgopt="+e)
	}
	args = append(args, o.Suite, out, "deb [trusted=yes] copy://"+repo+" ./")
	cmd := exec.CommandContext(ctx, "mmdebstrap", args...)
	cmd.Env = append(cleanEnviron(), "SOURCE_DATE_EPOCH="+strconv.FormatInt(o.Epoch.Unix(), 10), "TMPDIR="+o.Work)
	return runTold(ctx, cmd, o.Progress)
}

// unshareWorks tells early, and in words, why mmdebstrap could not work.
func unshareWorks(ctx context.Context) error {
	if err := NeedTools("newuidmap", "unshare"); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "unshare", "--user", "--map-root-user", "--map-auto", "true").CombinedOutput(); err != nil {
		return fmt.Errorf("building without root needs user namespaces and a range of ids in /etc/subuid and /etc/subgid: %s; run as root, or: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER",
			strings.TrimSpace(string(out)))
	}
	return nil
}

// runTold runs cmd, passes on what it says, and ends it gently when ctx ends,
// or when this process dies: mmdebstrap then removes its temporary root.
func runTold(ctx context.Context, cmd *exec.Cmd, told func(string)) error {
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the child
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", cmd.Args[0], err)
	}
	tail := readLines(stderr, told)
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if strings.Contains(strings.Join(tail, "\n"), "No space left on device") {
			return fmt.Errorf("running %s: %w", cmd.Args[0], syscall.ENOSPC)
		}
		return fmt.Errorf("running %s: %w:\n  %s", cmd.Args[0], err, strings.Join(tail, "\n  "))
	}
	return nil
}

// readLines passes on lines until the end and returns the last twelve.
func readLines(r io.Reader, told func(string)) []string {
	var tail []string
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		line := scan.Text()
		if told != nil && strings.HasPrefix(line, "I: ") {
			told(strings.TrimPrefix(line, "I: "))
		}
		if tail = append(tail, line); len(tail) > 12 {
			tail = tail[1:]
		}
	}
	return tail
}

// makeRepository makes a flat repository (sources.list(5), "exact path") of
// exactly these packages, each verified once more.
func makeRepository(ctx context.Context, c Cache, list []Package, dir string, o InstallOptions) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var index bytes.Buffer
	for _, p := range list {
		if err := c.Verify(p); err != nil {
			return err
		}
		name := p.SHA256 + ".deb"
		if err := linkOrCopy(c.Path(p), filepath.Join(dir, name)); err != nil {
			return err
		}
		control, err := exec.CommandContext(ctx, "dpkg-deb", "--field", filepath.Join(dir, name)).Output()
		if err != nil {
			return fmt.Errorf("reading the control file of %s: %w", p.Name, err)
		}
		fmt.Fprintf(&index, "%s\nFilename: ./%s\nSize: %d\nSHA256: %s\n\n", bytes.TrimSpace(control), name, p.Size, p.SHA256)
	}
	if err := os.WriteFile(filepath.Join(dir, "Packages"), index.Bytes(), 0o644); err != nil {
		return err
	}
	// mmdebstrap looks for essential packages of an archive with this code name.
	release := fmt.Sprintf("Suite: %s\nCodename: %s\nDate: %s\nSHA256:\n %x %d Packages\n", o.Suite, o.Suite,
		o.Epoch.UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"), sha256.Sum256(index.Bytes()), index.Len())
	return os.WriteFile(filepath.Join(dir, "Release"), []byte(release), 0o644)
}

func linkOrCopy(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// Unpack writes the files of one package, as a tar, to out. Its maintainer
// scripts are not run.
func Unpack(ctx context.Context, c Cache, p Package, out string) error {
	if err := c.Verify(p); err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", p.Name, err)
	}
	defer f.Close()
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", c.Path(p))
	cmd.Stdout = f
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("unpacking %s: %w: %s", p.Name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return f.Close()
}
