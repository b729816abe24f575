// Package source yields what images are made of. For now that is Debian: a
// private apt, with an empty list of installed packages, resolves names to
// exact packages; a cache keeps them by their SHA-256; mmdebstrap installs
// them from a local repository that holds nothing else.
package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Errors that callers may test for with errors.Is.
var (
	// ErrNoPackage: the suite has no package of that name.
	ErrNoPackage = errors.New("no such package")
	// ErrNoSuite: the mirror has no such suite.
	ErrNoSuite = errors.New("no such suite")
	// ErrNoMirror: neither the caller nor the host's apt sources name a Debian mirror.
	ErrNoMirror = errors.New("no Debian mirror is known")
	// ErrOffline: the mirror cannot be reached and nothing is cached.
	ErrOffline = errors.New("the mirror cannot be reached")
	// ErrNoTool: a program that ingot needs is not installed on this host.
	ErrNoTool = errors.New("a needed program is not installed")
	// ErrConflict: the packages cannot be installed together.
	ErrConflict = errors.New("the packages cannot be installed together")
	// ErrDigest: a file has not the bytes that the plan pins.
	ErrDigest = errors.New("the file is not the one that was planned")
)

// Package is one exact Debian package.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	Size    int64  `json:"size"`    // bytes of the .deb
	SHA256  string `json:"sha256"`  // hex
	Archive string `json:"archive"` // "debian" or "security"
	Path    string `json:"path"`    // below the archive: pool/main/…
}

// Apt is a private apt for one suite and architecture.
type Apt struct {
	dir     string
	mirrors Mirrors
	log     *slog.Logger
	config  string
	suite   string
	unlock  func()
}

// AptOptions choose what an Apt sees.
type AptOptions struct {
	Dir        string // private root, made when missing
	Arch       string
	Suite      string
	Components []string
	Mirrors    Mirrors
	Offline    bool         // use the package lists of an earlier run
	Log        *slog.Logger // nil is quiet
}

var (
	nameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`) // Debian policy 5.6.1
	sumRE  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	pathRE = regexp.MustCompile(`^pool/[A-Za-z0-9+.~_/:%-]+\.deb$`)
)

// Check tells what is wrong with a package that was read from a file.
func (p Package) Check() error {
	switch {
	case !nameRE.MatchString(p.Name):
		return fmt.Errorf("%q cannot be a package name", p.Name)
	case !sumRE.MatchString(p.SHA256):
		return fmt.Errorf("package %s: %q is no sha256", p.Name, p.SHA256)
	case p.Size <= 0 || p.Version == "" || p.Arch == "":
		return fmt.Errorf("package %s: size, version or arch is missing", p.Name)
	case !pathRE.MatchString(p.Path) || strings.Contains(p.Path, ".."):
		return fmt.Errorf("package %s: %q is no path below an archive", p.Name, p.Path)
	case p.Archive != "debian" && p.Archive != "security":
		return fmt.Errorf("package %s: unknown archive %q", p.Name, p.Archive)
	}
	return nil
}

// OpenApt prepares a private apt and refreshes its package lists. When the
// mirror cannot be reached but lists of an earlier day are there, it warns and
// uses those. Close releases the lock that orders concurrent users.
func OpenApt(ctx context.Context, o AptOptions) (*Apt, error) {
	if err := NeedTools("apt-get", "apt-cache"); err != nil {
		return nil, err
	}
	dir := filepath.Join(o.Dir, o.Suite+"-"+o.Arch)
	a := &Apt{dir: dir, mirrors: o.Mirrors, log: o.Log, suite: o.Suite, config: filepath.Join(dir, "apt.conf")}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []string{"etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "etc/trusted.gpg.d", "state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("preparing apt: %w", err)
		}
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	a.unlock = unlock
	if o.Offline {
		if lists, _ := filepath.Glob(filepath.Join(dir, "state/lists/*_Packages*")); len(lists) == 0 {
			unlock()
			return nil, fmt.Errorf("resolving packages: %w: there are no package lists of an earlier run; leave out --offline", ErrOffline)
		}
		return a, nil // as configured when the lists were fetched
	}
	if err := a.configure(o); err != nil {
		unlock()
		return nil, err
	}
	if err := a.update(ctx); err != nil {
		unlock()
		return nil, err
	}
	return a, nil
}

// Close lets the next user in.
func (a *Apt) Close() { a.unlock() }

func (a *Apt) configure(o AptOptions) error {
	conf := fmt.Sprintf(`Dir %q;
Dir::Etc %q;
Dir::State %q;
Dir::State::status %q;
Dir::Cache %q;
APT::Architecture %q;
APT::Architectures %q;
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
quiet "2";
`, a.dir, a.dir+"/etc", a.dir+"/state", a.dir+"/status", a.dir+"/cache", o.Arch, o.Arch)
	keyring := "/usr/share/keyrings/debian-archive-keyring.gpg"
	if _, err := os.Stat(keyring); err != nil {
		return fmt.Errorf("finding Debian's archive keys: %w; install the package debian-archive-keyring", err)
	}
	line := func(uri, suite string) string {
		return fmt.Sprintf("deb [signed-by=%s] %s %s %s\n", keyring, uri, suite, strings.Join(o.Components, " "))
	}
	sources := line(o.Mirrors.Debian, o.Suite)
	if !slices.Contains([]string{"sid", "unstable", "testing", "experimental"}, o.Suite) {
		sources += line(o.Mirrors.Debian, o.Suite+"-updates")
		if o.Mirrors.Security != "" {
			sources += line(o.Mirrors.Security, o.Suite+"-security")
		}
	}
	for name, content := range map[string]string{"apt.conf": conf, "etc/sources.list": sources, "status": ""} {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("preparing apt: %w", err)
		}
	}
	return nil
}

func (a *Apt) update(ctx context.Context) error {
	out, err := a.run(ctx, "apt-get", "update")
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	text := string(out)
	if strings.Contains(text, "does not have a Release file") || regexp.MustCompile(`(?m)404 +Not Found`).MatchString(text) {
		return fmt.Errorf("looking for suite %q: %w at the mirror; Debian's suites have names such as trixie or bookworm", a.suite, ErrNoSuite)
	}
	if !regexp.MustCompile(`Could not (resolve|connect)|Temporary failure|Connection (failed|timed out|refused)|Unable to connect`).MatchString(text) {
		return fmt.Errorf("refreshing package lists: %w: %s", err, firstError(text))
	}
	if lists, _ := filepath.Glob(filepath.Join(a.dir, "state/lists/*_Packages*")); len(lists) == 0 {
		return fmt.Errorf("refreshing package lists: %w: %s; check the network, or name another mirror with --mirror", ErrOffline, firstError(text))
	}
	a.log.Warn("the mirror cannot be reached, using the package lists of an earlier run", "suite", a.suite)
	return nil
}

// Resolve returns the closure of Debian's essential packages and names,
// without recommendations, sorted by name.
func (a *Apt) Resolve(ctx context.Context, names []string) ([]Package, error) {
	// apt itself counts as important to apt; an image that never changes needs none.
	args := append([]string{"install", "--simulate", "--yes", "?and(?essential,?not(?exact-name(apt)))"}, names...)
	out, err := a.run(ctx, "apt-get", args...)
	if err != nil {
		return nil, a.explain(ctx, names, string(out), err)
	}
	installs := regexp.MustCompile(`(?m)^Inst (\S+) \((\S+) `).FindAllStringSubmatch(string(out), -1)
	want := make([]string, 0, len(installs))
	for _, m := range installs {
		want = append(want, m[1]+"="+m[2])
	}
	if len(want) == 0 {
		return nil, fmt.Errorf("resolving packages: apt plans to install nothing: %s", firstError(string(out)))
	}
	return a.show(ctx, want)
}

// Kernel returns the package that holds the kernel image named by a meta
// package such as linux-image-amd64, or by the package itself.
func (a *Apt) Kernel(ctx context.Context, name string) (Package, error) {
	versioned := regexp.MustCompile(`^linux-image-[0-9]`)
	if !versioned.MatchString(name) {
		out, err := a.run(ctx, "apt-cache", "show", "--no-all-versions", name)
		if err != nil {
			return Package{}, a.explain(ctx, []string{name}, string(out), err)
		}
		found := ""
		for _, d := range strings.Split(field(string(out), "Depends"), ",") {
			if d = strings.Fields(d + " ")[0]; versioned.MatchString(d) {
				found = d
			}
		}
		if found == "" {
			return Package{}, fmt.Errorf("finding the kernel of %q: it depends on no linux-image package; write linux-image-amd64, linux-image-cloud-amd64 or an exact one", name)
		}
		name = found
	}
	return a.Package(ctx, name)
}

// Package returns the newest version of one package, by itself.
func (a *Apt) Package(ctx context.Context, name string) (Package, error) {
	out, err := a.run(ctx, "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return Package{}, a.explain(ctx, []string{name}, string(out), err)
	}
	list, err := a.show(ctx, []string{name + "=" + field(string(out), "Version")})
	if err != nil {
		return Package{}, err
	}
	return list[0], nil
}

// show looks up packages given as NAME=VERSION.
func (a *Apt) show(ctx context.Context, want []string) ([]Package, error) {
	out, err := a.run(ctx, "apt-cache", append([]string{"show"}, want...)...)
	if err != nil {
		return nil, fmt.Errorf("reading package records: %w: %s", err, firstError(string(out)))
	}
	seen := map[string]bool{}
	var list []Package
	for _, record := range strings.Split(string(out), "\n\n") {
		p := Package{Name: field(record, "Package"), Version: field(record, "Version"), Arch: field(record, "Architecture"),
			SHA256: field(record, "SHA256"), Path: field(record, "Filename"), Archive: "debian"}
		if p.Name == "" || seen[p.Name] {
			continue
		}
		if p.SHA256 == "" {
			return nil, fmt.Errorf("reading package records: %s %s has no SHA256", p.Name, p.Version)
		}
		if p.Size, err = strconv.ParseInt(field(record, "Size"), 10, 64); err != nil {
			return nil, fmt.Errorf("reading package records: size of %s: %w", p.Name, err)
		}
		if strings.HasPrefix(p.Path, "pool/updates/") { // the layout of the security archive
			p.Archive = "security"
		}
		seen[p.Name] = true
		list = append(list, p)
	}
	if len(list) != len(want) {
		return nil, fmt.Errorf("reading package records: %d packages found; want %d", len(list), len(want))
	}
	slices.SortFunc(list, func(x, y Package) int { return strings.Compare(x.Name, y.Name) })
	return list, nil
}

// explain turns apt's refusal into one sentence about the profile.
func (a *Apt) explain(ctx context.Context, names []string, text string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	missing := regexp.MustCompile(`(?:Unable to locate package|No packages found|Package '?([^' ]+)'? has no installation candidate)`)
	if missing.MatchString(text) {
		var unknown []string
		for _, n := range names {
			if out, err := a.run(ctx, "apt-cache", "show", "--no-all-versions", n); err != nil || len(out) == 0 || strings.HasPrefix(string(out), "E:") || strings.HasPrefix(string(out), "N:") {
				unknown = append(unknown, n+a.near(ctx, n))
			}
		}
		if len(unknown) > 0 {
			return fmt.Errorf("resolving packages: %w in %s: %s; mend the profile's list of packages", ErrNoPackage, a.suite, strings.Join(unknown, ", "))
		}
	}
	if strings.Contains(text, "unmet dependencies") || strings.Contains(text, "held broken packages") {
		return fmt.Errorf("resolving packages: %w: %s", ErrConflict, firstError(text))
	}
	return fmt.Errorf("resolving packages: %w: %s", err, firstError(text))
}

// near suggests packages whose names begin alike.
func (a *Apt) near(ctx context.Context, name string) string {
	for n := len(name) - 1; n >= 3; n-- {
		out, err := a.run(ctx, "apt-cache", "pkgnames", name[:n])
		if err != nil {
			return ""
		}
		if names := strings.Fields(string(out)); len(names) > 0 {
			slices.SortFunc(names, func(x, y string) int { return len(x) - len(y) })
			return " (perhaps " + strings.Join(names[:min(3, len(names))], ", ") + ")"
		}
	}
	return ""
}

// run runs a tool of apt against the private root; out holds both its streams.
func (a *Apt) run(ctx context.Context, tool string, args ...string) (out []byte, err error) {
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Env = append(cleanEnviron(), "APT_CONFIG="+a.config)
	return cmd.CombinedOutput()
}

// cleanEnviron is the environment without what would change apt's words or config.
func cleanEnviron() []string {
	var env []string
	for _, e := range os.Environ() {
		if k, _, _ := strings.Cut(e, "="); k != "APT_CONFIG" && k != "LANG" && k != "LANGUAGE" && !strings.HasPrefix(k, "LC_") {
			env = append(env, e)
		}
	}
	return append(env, "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
}

// field returns one field of a deb822 record (deb822(5)), single-line values only.
func field(record, name string) string {
	for _, line := range strings.Split(record, "\n") {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// firstError is the first line that apt marks as an error, with the lines of
// unmet dependencies before it, or else the last line.
func firstError(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	var unmet []string
	for _, l := range lines {
		if strings.Contains(l, " : Depends:") || strings.Contains(l, " : Conflicts:") || strings.Contains(l, " : Breaks:") {
			unmet = append(unmet, strings.Join(strings.Fields(l), " "))
		}
		if e, ok := strings.CutPrefix(l, "E: "); ok {
			return hideHost(strings.Join(append(unmet, e), "; "))
		}
	}
	return hideHost(lines[len(lines)-1])
}

var urlRE = regexp.MustCompile(`https?://[^\s']+`)

// hideHost shortens URLs to their paths: the host is the operator's business.
func hideHost(s string) string {
	return urlRE.ReplaceAllStringFunc(s, func(u string) string {
		if p, err := url.Parse(u); err == nil {
			return p.Path
		}
		return u
	})
}

// NeedTools checks that programs are installed.
func NeedTools(names ...string) error {
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			return fmt.Errorf("%w: %s; run scripts/setup, or install it with apt-get", ErrNoTool, n)
		}
	}
	return nil
}

// lock takes an exclusive flock on path.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking %q: %w", path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %q: %w", path, err)
	}
	return func() { f.Close() }, nil
}
