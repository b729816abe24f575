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
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Package is one exact Debian package.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	Size    int64  `json:"size"`    // bytes of the .deb
	SHA256  string `json:"sha256"`  // hex
	Archive string `json:"archive"` // "debian", "security", or the name of a repository
	Path    string `json:"path"`    // below the archive: pool/main/…
}

// Apt is a private apt for one suite and architecture.
type Apt struct {
	dir    string
	log    *slog.Logger
	config string
	suite  string
	unlock func()
	// repositories are further archives, in the order of the profile.
	repositories []Repository
}

// AptOptions choose what an Apt sees.
type AptOptions struct {
	Dir        string // private root, made when missing
	Arch       string
	Suite      string
	Components []string
	Mirrors    Mirrors
	Keyring    string   // OpenPGP keys of Mirrors.Debian, absolute path; empty: Debian's own
	Offline    bool     // use the package lists of an earlier run
	Also       []string // further suites of Debian, for packages that name one
	// Repositories are further archives.
	Repositories []Repository
	Alone        bool         // the suite is one of Repositories, and Debian's archive is not used
	Log          *slog.Logger // nil is quiet
}

var (
	nameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`) // Debian policy 5.6.1
	sumRE  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	pathRE = regexp.MustCompile(`^pool/[A-Za-z0-9+.~_/:%-]+\.deb$`)
)

// Check reports what is wrong with a package that was read from a file.
func (p Package) Check() error {
	switch {
	case !nameRE.MatchString(p.Name):
		return fmt.Errorf("%q cannot be a package name", p.Name)
	case !sumRE.MatchString(p.SHA256):
		return fmt.Errorf("package %s: %q is not a SHA-256", p.Name, p.SHA256)
	case p.Size <= 0 || p.Version == "" || p.Arch == "":
		return fmt.Errorf("package %s: size, version or arch is missing", p.Name)
	case !p.pathOK() || strings.Contains(p.Path, ".."):
		return fmt.Errorf("package %s: %q is not a path below an archive", p.Name, p.Path)
	case !archiveRE.MatchString(p.Archive):
		return fmt.Errorf("package %s: unknown archive %q", p.Name, p.Archive)
	}
	return nil
}

// pathOK reports whether the path can be one of the archive.
func (p Package) pathOK() bool {
	if p.Archive == "debian" || p.Archive == "security" {
		return pathRE.MatchString(p.Path)
	}
	return repositoryPathRE.MatchString(p.Path)
}

// OpenApt prepares a private apt and refreshes its package lists. When the mirror cannot be reached
// but there are lists of an earlier run, it warns and uses those. Only one process at a time uses a
// private apt; Close lets the next one continue.
func OpenApt(ctx context.Context, o AptOptions) (*Apt, error) {
	if err := NeedTools("apt-get", "apt-cache"); err != nil {
		return nil, err
	}
	dir := filepath.Join(o.Dir, strings.Join(append([]string{o.Suite, o.Arch}, o.Also...), "-")+o.repositoriesKey())
	a := &Apt{dir: dir, log: o.Log, suite: o.Suite, config: filepath.Join(dir, "apt.conf"), repositories: o.Repositories}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []string{"etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "etc/trusted.gpg.d",
		"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("preparing apt: %w", err)
		}
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"), func() {
		a.log.Info("waiting for another ingot that is using apt", "suite", o.Suite)
	})
	if err != nil {
		return nil, err
	}
	a.unlock = unlock
	if o.Offline {
		if !a.hasLists() {
			unlock()
			return nil, fmt.Errorf("resolving packages: %w: there are no package lists of an earlier run; leave out --offline",
				ErrOffline)
		}
		return a, nil // as configured when the lists were fetched
	}
	if err := a.refresh(ctx, o); err != nil {
		unlock()
		return nil, err
	}
	return a, nil
}

// Close lets the next process continue.
func (a *Apt) Close() { a.unlock() }

// refresh fetches the package lists. When the mirror that the lists of an earlier run came from
// cannot be reached, it keeps those. After any other failure it restores apt.conf and the sources
// that belong to the lists.
func (a *Apt) refresh(ctx context.Context, o AptOptions) error {
	sources, err := o.sources()
	if err != nil {
		return err
	}
	sources += a.repositoryLines(o.Repositories)
	path := filepath.Join(a.dir, "etc/sources.list")
	before, _ := os.ReadFile(path) // none: there are no lists either
	if err := a.configure(o, sources); err != nil {
		return err
	}
	if err = a.update(ctx); err == nil && len(o.Repositories) > 0 {
		err = a.prefer(ctx)
	}
	if errors.Is(err, ErrOffline) && string(before) == sources && a.hasLists() {
		a.log.Warn("the mirror cannot be reached, using the package lists of an earlier run", "suite", a.suite)
		return nil
	}
	if err != nil && len(before) > 0 {
		return errors.Join(err, os.WriteFile(path, before, 0o644))
	}
	return err
}

func (a *Apt) hasLists() bool {
	lists, _ := filepath.Glob(filepath.Join(a.dir, "state/lists/*_Packages*"))
	return len(lists) > 0
}

// debianKeyring is in Debian's package debian-archive-keyring.
const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// sources returns the text of sources.list(5).
func (o *AptOptions) sources() (string, error) {
	if o.Alone {
		return "", nil
	}
	keyring := debianKeyring
	if o.Keyring != "" {
		keyring = o.Keyring
	}
	if _, err := os.Stat(keyring); err != nil && o.Keyring != "" {
		return "", fmt.Errorf("finding the mirror's keys: %w", err)
	} else if err != nil {
		return "", fmt.Errorf("finding Debian's archive keys: %w; install the package debian-archive-keyring", err)
	}
	line := func(keyring, uri, suite string) string {
		return fmt.Sprintf("deb [signed-by=%s] %s %s %s\n", keyring, uri, suite, strings.Join(o.Components, " "))
	}
	on, _ := backportsOf(o.Suite)
	text := line(keyring, o.Mirrors.Debian, on)
	if !Rolling(on) {
		text += line(keyring, o.Mirrors.Debian, on+"-updates")
		if o.Mirrors.Security != "" {
			text += line(debianKeyring, o.Mirrors.Security, on+"-security")
		}
	}
	for _, suite := range append([]string{o.Suite}, o.Also...) {
		if !strings.Contains(text, " "+suite+" ") && !(suite == on+"-security") {
			text += line(keyring, o.Mirrors.Debian, suite)
		}
	}
	return text, nil
}

// Rolling reports whether a suite has no separate archives for updates.
func Rolling(suite string) bool {
	return slices.Contains([]string{"sid", "unstable", "testing", "experimental"}, suite)
}

// configure writes apt.conf. A suite may change what it says about itself, such as testing that becomes
// stable: its name and the signature decide here.
func (a *Apt) configure(o AptOptions, sources string) error {
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
Acquire::Retries "2";
Acquire::AllowReleaseInfoChange "true";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Debug::NoLocking "true";
quiet "1";
`, a.dir, a.dir+"/etc", a.dir+"/state", a.dir+"/status", a.dir+"/cache", o.Arch, o.Arch)
	if _, on := backportsOf(o.Suite); on { // else apt takes nothing of it (apt_preferences(5), NotAutomatic)
		conf += fmt.Sprintf("APT::Default-Release %q;\n", o.Suite)
	}
	if err := a.writeKeys(o.Repositories); err != nil {
		return err
	}
	for name, content := range map[string]string{"apt.conf": conf, "etc/sources.list": sources, "status": ""} {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("preparing apt: %w", err)
		}
	}
	return nil
}

// refusals are apt's messages about lists that it refuses (apt-secure(8)), and what they mean to an
// operator.
var refusals = []struct {
	words *regexp.Regexp
	why   string
}{
	{regexp.MustCompile(`is expired|Release file .* expired`), "they are out of date, so updates may be held back; " +
		"use a mirror that is kept up to date"},
	{regexp.MustCompile(`is not valid yet`), "they are from the future; set this host's clock"},
	{regexp.MustCompile(`NO_PUBKEY|EXPKEYSIG|public key is not available`), "they are signed by a key that is not " +
		"trusted here; name the mirror's keys with --keyring FILE, or use another mirror"},
	{regexp.MustCompile(`is not signed|does not contain a signature|no longer signed`), "they are not signed; " +
		"use a mirror that is"},
	{regexp.MustCompile(`BADSIG|signatures? (was|were) invalid|signature verification|NOSPLIT`), "their signature is " +
		"wrong; use another mirror"},
	{regexp.MustCompile(`Hash Sum mismatch|unexpected size`), "they are not those that were signed, perhaps because " +
		"the mirror is being updated; try again in a few minutes"},
}

var (
	notFoundRE = regexp.MustCompile(`404 +Not Found|File not found|does not have a Release file`)
	offlineRE  = regexp.MustCompile(`Could not (resolve|connect|handshake)|Temporary failure|` +
		`Connection (failed|timed out|refused)|Unable to connect|Error reading from server|Undetermined Error|` +
		`(?m)^E: .* [45][0-9]{2} +[A-Z]`)
	suiteRE = regexp.MustCompile(`repository '\S+ (\S+) Release' does not have|/dists/([^/\s]+)/`)
)

// update fetches the package lists.
func (a *Apt) update(ctx context.Context) error {
	out, err := a.run(ctx, "apt-get", "update")
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	text := string(out)
	if errors.Is(noSpace(text), unix.ENOSPC) {
		return fmt.Errorf("refreshing package lists: %w", unix.ENOSPC)
	}
	repository := a.blame(text)
	for _, r := range refusals {
		if r.words.MatchString(text) {
			why := r.why
			if repository != "" {
				why = strings.NewReplacer("name the mirror's keys with --keyring FILE, or use another mirror",
					"write the key that its owner publishes", "that is not trusted here", "other than the profile's").Replace(why)
			}
			return fmt.Errorf("refreshing package lists: %s%w: %s (%s)", repository, ErrUntrusted, why, firstError(text))
		}
	}
	switch {
	case repository != "" && (notFoundRE.MatchString(text) || offlineRE.MatchString(text)):
		return fmt.Errorf("refreshing package lists: %s%w: %s; correct its uris and suites", repository, ErrNoSuite,
			firstError(text))
	case notFoundRE.MatchString(text):
		suite := a.suite
		if m := suiteRE.FindStringSubmatch(text); m != nil {
			suite = m[1] + m[2]
		}
		return fmt.Errorf("looking for suite %q: %w at the mirror; Debian's suites have names such as trixie or bookworm",
			suite, ErrNoSuite)
	case offlineRE.MatchString(text):
		return fmt.Errorf("refreshing package lists: %w: %s; check the network, or name another mirror with --mirror",
			ErrOffline, firstError(text))
	}
	return fmt.Errorf("refreshing package lists: %w: %s", err, firstError(text))
}

// noSpace returns ENOSPC when a tool reports it, otherwise nil.
func noSpace(text string) error {
	if strings.Contains(text, unix.ENOSPC.Error()) || strings.Contains(text, "No space left on device") {
		return unix.ENOSPC
	}
	return nil
}

// Resolve returns the closure of Debian's essential packages and names,
// without recommendations, sorted by name.
//
// A name may be NAME=VERSION, with * for any text, or NAME/SUITE. With recommends, what packages recommend
// is in the closure, too. files are packages of the cache that are installed besides.
func (a *Apt) Resolve(ctx context.Context, names []string, recommends bool, c Cache, files ...Package) ([]Package,
	error) {
	// apt treats itself as important; an image that never changes does not need it.
	args := []string{"install", "--simulate", "--yes"}
	if recommends {
		args = append(args, "--install-recommends")
	}
	args = append(append(args, "?and(?essential,?not(?exact-name(apt)))"), names...)
	for _, p := range files {
		args = append(args, c.Path(p))
	}
	out, err := a.run(ctx, "apt-get", args...)
	if err != nil {
		return nil, a.explain(ctx, names, string(out), err)
	}
	installs := regexp.MustCompile(`(?m)^Inst (\S+) \((\S+) `).FindAllStringSubmatch(string(out), -1)
	want := make([]string, 0, len(installs))
	for _, m := range installs {
		if !slices.ContainsFunc(files, func(p Package) bool { return p.Name == m[1] && p.Version == m[2] }) {
			want = append(want, m[1]+"="+m[2])
		}
	}
	if len(want) == 0 {
		return nil, fmt.Errorf("resolving packages: apt plans to install nothing: %s", firstError(string(out)))
	}
	list, err := a.show(ctx, want)
	if err != nil {
		return nil, err
	}
	list = append(list, files...)
	slices.SortFunc(list, func(x, y Package) int { return strings.Compare(x.Name, y.Name) })
	return list, nil
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
			return Package{}, fmt.Errorf("finding the kernel of %q: it does not depend on a linux-image package; "+
				"write linux-image-amd64, linux-image-cloud-amd64 or an exact one", name)
		}
		name = found
	}
	return a.Package(ctx, name)
}

// Package returns the newest version of one package, without its dependencies.
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
	var list, records []Package
	for _, record := range strings.Split(string(out), "\n\n") {
		p := Package{Name: field(record, "Package"), Version: field(record, "Version"), Arch: field(record, "Architecture"),
			SHA256: field(record, "SHA256"), Path: field(record, "Filename"), Archive: "debian"}
		if p.Name == "" {
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
		if records = append(records, p); !seen[p.Name] {
			seen[p.Name] = true
			list = append(list, p)
		}
	}
	if len(list) != len(want) {
		return nil, fmt.Errorf("reading package records: %d packages found; want %d", len(list), len(want))
	}
	slices.SortFunc(list, func(x, y Package) int { return strings.Compare(x.Name, y.Name) })
	return list, a.locate(ctx, list, records)
}

// versionRefused is what apt says of a version or suite that it does not have.
var versionRefused = regexp.MustCompile(`(?:Version|Release) '([^']*)' for '([^']*)' was not found`)

// refuseVersion says which versions of a package there are.
func (a *Apt) refuseVersion(ctx context.Context, want, name string) error {
	out, err := a.run(ctx, "apt-cache", "show", "--all-versions", name)
	if err != nil {
		return fmt.Errorf("resolving packages: %w: %s", err, firstError(string(out)))
	}
	var have []string
	for _, record := range strings.Split(string(out), "\n\n") {
		if v := field(record, "Version"); v != "" && !slices.Contains(have, v) {
			have = append(have, v)
		}
	}
	return fmt.Errorf("resolving packages: %w in %s: %s %s; there is %s", ErrNoPackage, a.suite, name, want,
		strings.Join(have, ", "))
}

// explain turns apt's error output into one sentence about the profile.
func (a *Apt) explain(ctx context.Context, names []string, text string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if m := versionRefused.FindStringSubmatch(text); m != nil {
		return a.refuseVersion(ctx, m[1], m[2])
	}
	missing := regexp.MustCompile(`(?:Unable to locate package|No packages found|` +
		`Package '?([^' ]+)'? has no installation candidate)`)
	if missing.MatchString(text) {
		var unknown []string
		for _, n := range names {
			if i := strings.IndexAny(n, "=/"); i > 0 {
				n = n[:i]
			}
			if out, err := a.run(ctx, "apt-cache", "show", "--no-all-versions", n); err != nil || len(out) == 0 ||
				strings.HasPrefix(string(out), "E:") || strings.HasPrefix(string(out), "N:") {
				unknown = append(unknown, n+a.near(ctx, n))
			}
		}
		if len(unknown) > 0 {
			return fmt.Errorf("resolving packages: %w in %s: %s; correct the profile's list of packages", ErrNoPackage,
				a.suite, strings.Join(unknown, ", "))
		}
	}
	if strings.Contains(text, "unmet dependencies") || strings.Contains(text, "Unable to satisfy dependencies") ||
		strings.Contains(text, "held broken packages") {
		return fmt.Errorf("resolving packages: %w: %s", ErrConflict, firstError(text))
	}
	return fmt.Errorf("resolving packages: %w: %s", err, firstError(text))
}

// near suggests packages whose names have the same beginning.
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
// The tool and its helpers end with ctx, and with this process.
func (a *Apt) run(ctx context.Context, tool string, args ...string) (out []byte, err error) {
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the child
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Env = append(cleanEnviron(), "APT_CONFIG="+a.config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd.CombinedOutput()
}

// cleanEnviron is the environment without what would change apt's messages or configuration.
func cleanEnviron() []string {
	var env []string
	for _, e := range os.Environ() {
		if k, _, _ := strings.Cut(e, "="); k != "APT_CONFIG" && k != "LANG" &&
			k != "LANGUAGE" && !strings.HasPrefix(k, "LC_") {
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

// unmetRE is a line of apt's list of unmet dependencies. The name is missing when it is that of the
// line before.
var unmetRE = regexp.MustCompile(`^ (\S+ :|  +) ?((?:Pre)?Depends|Conflicts|Breaks): `)

// firstError returns the first line that apt marks as an error, with the lines of unmet
// dependencies before it, or else the last line.
func firstError(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	var unmet []string
	name := ""
	for _, l := range lines {
		if m := unmetRE.FindStringSubmatch(l); m != nil {
			if strings.HasSuffix(m[1], ":") {
				name = m[1]
			}
			unmet = append(unmet, name+" "+strings.Join(strings.Fields(strings.TrimPrefix(l, " "+m[1])), " "))
		}
		if e, ok := strings.CutPrefix(l, "E: "); ok {
			return hideHost(strings.Join(append(unmet, e), "; "))
		}
	}
	return hideHost(lines[len(lines)-1])
}

var urlRE = regexp.MustCompile(`https?://[^\s']+`)

// hideHost shortens URLs to their paths, because the mirror's host may be private.
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
			return fmt.Errorf("%w: %s; run: scripts/setup, or install it with apt-get", ErrNoTool, n)
		}
	}
	return nil
}

// lock takes an exclusive flock on path. When another process holds it,
// waiting is called once.
func lock(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking %q: %w", path, err)
	}
	for waited := false; ; {
		switch err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			f.Close()
			return nil, fmt.Errorf("locking %q: %w", path, err)
		case !waited:
			waiting()
			waited = true
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
