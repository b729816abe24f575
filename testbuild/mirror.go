// Package testbuild has end-to-end tests of building: the ingot program works with a Debian mirror
// on the loopback interface, which a test fills, signs and breaks. dpkg-deb makes the packages,
// apt-ftparchive the indexes, and gpg the signatures, with a key for each test.
package testbuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Mirror is a Debian archive with one suite.
type Mirror struct {
	URL     string // of the archive
	Keyring string // file of the public keys that Publish signs with

	// Components are those of the suite, each with a folder of the pool; Arch is the architecture; Pack is how
	// dpkg-deb compresses packages. They may be changed before Add.
	Components []string
	Arch, Pack string

	dir    string // dists/ and pool/
	home   string // of gpg
	suite  string
	server *http.Server
	stamp  time.Time // of the files that Publish wrote last

	mu    sync.Mutex
	spoil http.HandlerFunc // answers requests instead; may be nil
	asked []string         // paths, in order
}

// Deb is a package to make.
type Deb struct {
	Name    string
	Version string
	Fields  string            // further lines of the control file
	Files   map[string]string // by path without a leading slash
	// Backport puts it into the suite's backports instead.
	Backport  bool
	Component string // of the suite; empty: main
}

// NewMirror starts an empty mirror whose files are below dir. Close ends it.
func NewMirror(ctx context.Context, dir, suite string) (*Mirror, error) {
	return NewMirrorAt(ctx, dir, suite, "debian")
}

// NewMirrorAt is like NewMirror, and name is the last part of the URL.
func NewMirrorAt(ctx context.Context, dir, suite, name string) (*Mirror, error) {
	m := &Mirror{Components: []string{"main"}, Arch: "amd64", Pack: "none",
		dir: filepath.Join(dir, "archive"), home: filepath.Join(dir, "gpg"), suite: suite,
		Keyring: filepath.Join(dir, "keys.gpg"),
		stamp:   time.Now().Add(-time.Hour)}
	for _, d := range []string{m.dir, filepath.Join(m.dir, "pool/main"), filepath.Join(m.dir, "pool/backports")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Mkdir(m.home, 0o700); err != nil {
		return nil, err
	}
	if err := m.newKey(ctx, "mirror"); err != nil {
		return nil, err
	}
	if err := m.gpg(ctx, "--yes", "--output", m.Keyring, "--export", "mirror"); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m.URL = "http://" + l.Addr().String() + "/" + name
	m.server = &http.Server{Handler: http.StripPrefix("/"+name, http.HandlerFunc(m.serve)),
		ReadHeaderTimeout: time.Minute}
	go func() { _ = m.server.Serve(l) }() // ends with Close
	return m, nil
}

// Close stops the server and gpg's agent.
func (m *Mirror) Close() error {
	return errors.Join(m.server.Close(), exec.Command("gpgconf", "--homedir", m.home, "--kill", "all").Run())
}

// Spoil makes f answer all requests. f may call Serve. Nil restores Serve.
func (m *Mirror) Spoil(f http.HandlerFunc) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spoil, m.asked = f, nil
}

// Asked returns the paths that were requested since Spoil was called.
func (m *Mirror) Asked() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.asked...)
}

// Serve answers a request as a working mirror does.
func (m *Mirror) Serve(w http.ResponseWriter, r *http.Request) {
	http.FileServer(http.Dir(m.dir)).ServeHTTP(w, r)
}

func (m *Mirror) serve(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	f := m.spoil
	m.asked = append(m.asked, r.URL.Path)
	m.mu.Unlock()
	if f == nil {
		f = m.Serve
	}
	f(w, r)
}

// newKey makes a key without a password.
func (m *Mirror) newKey(ctx context.Context, name string) error {
	return m.gpg(ctx, "--quick-gen-key", name, "ed25519", "sign", "never")
}

func (m *Mirror) gpg(ctx context.Context, args ...string) error {
	return run(ctx, nil, "gpg", append([]string{"--homedir", m.home, "--batch", "--quiet", "--pinentry-mode",
		"loopback", "--passphrase", ""}, args...)...)
}

// run runs a tool; out may be nil.
func run(ctx context.Context, out io.Writer, tool string, args ...string) error {
	cmd := exec.CommandContext(ctx, tool, args...)
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running %s: %w: %s", tool, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// Add makes a package and puts it into the pool. Publish adds it to the indexes.
func (m *Mirror) Add(ctx context.Context, d Deb) error {
	tree, err := os.MkdirTemp(filepath.Dir(m.dir), "deb-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	files := map[string]string{"DEBIAN/control": fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\n"+
		"Maintainer: Scene <scene@localhost>\nDescription: made for a scene\n%s",
		d.Name, d.Version, m.Arch, d.Fields)}
	for name, content := range d.Files {
		files[name] = content
	}
	for name, content := range files {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(name, "DEBIAN/p") { // a maintainer script
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			return err
		}
	}
	if err := os.Chmod(tree, 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(m.pool(d)), 0o755); err != nil {
		return err
	}
	return run(ctx, nil, "dpkg-deb", "--build", "--root-owner-group", "-Z"+m.Pack, "--uniform-compression", tree,
		m.pool(d))
}

// Remove removes a package from the pool.
func (m *Mirror) Remove(name, version string) error {
	return os.Remove(m.pool(Deb{Name: name, Version: version}))
}

// AddFile puts an existing package into the pool.
func (m *Mirror) AddFile(path, name string) error {
	to := filepath.Join(m.dir, "pool/main", name)
	if os.Link(path, to) == nil {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

func (m *Mirror) pool(d Deb) string {
	folder := "main"
	if d.Component != "" {
		folder = d.Component
	}
	if d.Backport {
		folder = "backports"
	}
	return filepath.Join(m.dir, "pool", folder, d.Name+"_"+d.Version+"_"+m.Arch+".deb")
}

// Release says how Publish signs.
type Release struct {
	Unsigned bool
	Key      string    // name of another key, which is made; empty: the key of Keyring
	Until    time.Time // Valid-Until; zero: none
	Origin   string    // empty: none
}

// Publish makes indexes of the pool for the suite and its backports, and empty ones for its updates.
func (m *Mirror) Publish(ctx context.Context, r Release) error {
	if r.Key != "" {
		if err := m.newKey(ctx, r.Key); err != nil {
			return err
		}
	}
	backports, err := m.index(ctx, "pool/backports")
	if err != nil {
		return err
	}
	index, later := map[string][]byte{}, map[string][]byte{"main": backports}
	for _, c := range m.Components {
		if err := os.MkdirAll(filepath.Join(m.dir, "pool", c), 0o755); err != nil {
			return err
		}
		if index[c], err = m.index(ctx, "pool/"+c); err != nil {
			return err
		}
	}
	// HTTP has times in seconds (RFC 9110 section 5.6.7): files that are published twice in one second
	// would look unchanged to apt.
	m.stamp = m.stamp.Add(2 * time.Second)
	for suite, text := range map[string]map[string][]byte{m.suite: index, m.suite + "-updates": nil,
		m.suite + "-security": nil, m.suite + "-backports": later} {
		if err := m.publish(ctx, suite, text, r); err != nil {
			return err
		}
		dir := filepath.Join(m.dir, "dists", suite)
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Chtimes(path, m.stamp, m.stamp))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// index describes the packages of a folder.
func (m *Mirror) index(ctx context.Context, folder string) ([]byte, error) {
	var text bytes.Buffer
	packages := exec.CommandContext(ctx, "apt-ftparchive", "packages", folder)
	packages.Dir, packages.Stdout = m.dir, &text
	if err := packages.Run(); err != nil {
		return nil, fmt.Errorf("running apt-ftparchive: %w", err)
	}
	return text.Bytes(), nil
}

// publish makes a suite with the packages of each component.
func (m *Mirror) publish(ctx context.Context, suite string, index map[string][]byte, r Release) error {
	dir := filepath.Join(m.dir, "dists", suite)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for _, c := range m.Components {
		folder := filepath.Join(dir, c, "binary-"+m.Arch)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(folder, "Packages"), index[c], 0o644); err != nil {
			return err
		}
	}
	args := []string{"-o", "APT::FTPArchive::Release::Suite=" + suite, "-o", "APT::FTPArchive::Release::Codename=" + suite,
		"-o", "APT::FTPArchive::Release::Components=" + strings.Join(m.Components, " "),
		"-o", "APT::FTPArchive::Release::Architectures=" + m.Arch}
	var text bytes.Buffer
	if err := run(ctx, &text, "apt-ftparchive", append(args, "release", dir)...); err != nil {
		return err
	}
	release := text.Bytes()
	if !r.Until.IsZero() {
		release = setField(release, "Valid-Until", r.Until.UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"))
		release = setField(release, "Date", r.Until.Add(-time.Hour).UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"))
	}
	if r.Origin != "" {
		release = setField(release, "Origin", r.Origin)
	}
	if strings.HasSuffix(suite, "-backports") { // as Debian's: only on request
		release = setField(setField(release, "NotAutomatic", "yes"), "ButAutomaticUpgrades", "yes")
	}
	path := filepath.Join(dir, "Release")
	if err := os.WriteFile(path, release, 0o644); err != nil {
		return err
	}
	if r.Unsigned {
		return nil
	}
	key := "mirror"
	if r.Key != "" {
		key = r.Key
	}
	return m.gpg(ctx, "--local-user", key, "--output", filepath.Join(dir, "InRelease"), "--clearsign", path)
}

// setField replaces a field of a deb822 text, or adds it at the front.
func setField(text []byte, name, value string) []byte {
	lines := strings.Split(string(text), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, name+":") {
			lines[i] = name + ": " + value
			return []byte(strings.Join(lines, "\n"))
		}
	}
	return []byte(name + ": " + value + "\n" + string(text))
}
