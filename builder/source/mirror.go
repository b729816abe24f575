package source

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Mirrors are the base URLs of Debian's archives, without a final slash.
type Mirrors struct {
	Debian   string
	Security string // empty: no security updates
	// Repositories are the base URLs of further archives, by name.
	Repositories map[string]string
}

// URL returns where a package is downloaded from. A plus sign is escaped, as apt does: some caches
// read it as a space.
func (m Mirrors) URL(p Package) (string, error) {
	base := m.Debian
	switch p.Archive {
	case "debian":
	case "security":
		base = m.Security
	case LocalArchive:
		return "", fmt.Errorf("%w: it is a file of the profile's folder, and no longer in the cache; plan the profile there",
			ErrNoPackage)
	default:
		if base = m.Repositories[p.Archive]; base == "" {
			return "", fmt.Errorf("%w for the repository %q; the profile does not have it", ErrNoMirror, p.Archive)
		}
	}
	if base == "" {
		return "", fmt.Errorf("%w for the %s archive; give one with --mirror 'URL SECURITY-URL'", ErrNoMirror, p.Archive)
	}
	return base + "/" + strings.ReplaceAll(p.Path, "+", "%2b"), nil
}

// noMirror is written in place of the URL of an archive that is not used.
const noMirror = "none"

// HostMirrors returns the mirrors that this host's own apt uses, from the files below etc (normally
// /etc/apt). named overrides them: the URL of an archive, and after a space that of its security
// archive or "none". No host name is built into ingot.
func HostMirrors(etc, named string) (Mirrors, error) {
	var m Mirrors
	switch f := strings.Fields(named); {
	case len(f) > 2:
		return m, fmt.Errorf("reading the mirror %q: want URL, or URL SECURITY-URL", named)
	case len(f) == 2:
		m.Security = strings.TrimRight(f[1], "/")
		fallthrough
	case len(f) == 1:
		m.Debian = strings.TrimRight(f[0], "/")
	}
	for _, e := range hostEntries(etc) {
		isDebian := strings.HasSuffix(e.uri, "/debian") || strings.Contains(e.signedBy, "debian-archive")
		switch {
		case strings.HasSuffix(e.suite, "-security") && strings.Contains(e.uri, "debian"):
			if m.Security == "" {
				m.Security = e.uri
			}
		case isDebian && m.Debian == "" && !strings.ContainsAny(e.suite, "-/"):
			m.Debian = e.uri
		}
	}
	if m.Security == noMirror {
		m.Security = ""
	}
	if m.Debian == "" {
		return m, fmt.Errorf("%w: this host's apt sources do not name one; give one with --mirror URL or INGOT_MIRROR",
			ErrNoMirror)
	}
	return m, nil
}

type sourceEntry struct{ uri, suite, signedBy string }

// hostEntries reads one-line and deb822 sources (sources.list(5)).
func hostEntries(etc string) []sourceEntry {
	files, _ := filepath.Glob(filepath.Join(etc, "sources.list.d", "*"))
	files = append([]string{filepath.Join(etc, "sources.list")}, files...)
	var entries []sourceEntry
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		switch filepath.Ext(f) {
		case ".list":
			entries = append(entries, oneLine(string(b))...)
		case ".sources":
			entries = append(entries, deb822(string(b))...)
		}
	}
	return entries
}

func oneLine(text string) []sourceEntry {
	var entries []sourceEntry
	for _, line := range strings.Split(text, "\n") {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		signedBy := ""
		if strings.HasPrefix(strings.TrimSpace(rest), "[") {
			signedBy, rest, _ = strings.Cut(rest, "]")
		}
		if f := strings.Fields(rest); len(f) >= 2 {
			entries = append(entries, sourceEntry{strings.TrimRight(f[0], "/"), f[1], signedBy})
		}
	}
	return entries
}

func deb822(text string) []sourceEntry {
	var entries []sourceEntry
	for _, record := range strings.Split(text, "\n\n") {
		if field(record, "Enabled") == "no" || !strings.Contains(" "+field(record, "Types")+" ", " deb ") {
			continue
		}
		for _, uri := range strings.Fields(field(record, "URIs")) {
			for _, suite := range strings.Fields(field(record, "Suites")) {
				entries = append(entries, sourceEntry{strings.TrimRight(uri, "/"), suite, field(record, "Signed-By")})
			}
		}
	}
	return entries
}
