package sbom

import (
	"regexp"
	"slices"
	"strings"
)

// licence is one licence of a package. Exactly one of the fields is set.
type licence struct {
	SPDX string // licence expression (SPDX specification, annex D), where it is clear what Debian's name means
	Name string // as the package calls it
}

// licencesOf returns the licences that a package's copyright file names, sorted and without
// duplicates (Debian, "Machine-readable debian/copyright file", 1.0). From a file in free form,
// which about one in six still is, it takes the names of the texts in /usr/share/common-licenses
// that the file refers to.
func licencesOf(copyright []byte) []licence {
	text := string(copyright)
	var names []string
	if first, _, _ := strings.Cut(text, "\n"); strings.HasPrefix(first, "Format:") &&
		strings.Contains(first, "copyright-format") {
		for line := range strings.Lines(text) {
			if name, ok := strings.CutPrefix(line, "License:"); ok && strings.TrimSpace(name) != "" {
				names = append(names, strings.Join(strings.Fields(name), " "))
			}
		}
	} else {
		for _, m := range commonRE.FindAllStringSubmatch(text, -1) {
			names = append(names, strings.TrimRight(m[1], ".-+"))
		}
		var list []licence
		slices.Sort(names)
		for _, n := range slices.Compact(names) {
			list = append(list, licence{Name: n}) // the prose may say "or later"
		}
		return list
	}
	var list []licence
	for _, n := range names {
		l := licence{Name: n}
		if e := spdx(n); e != "" {
			l = licence{SPDX: e}
		}
		if !slices.Contains(list, l) {
			list = append(list, l)
		}
	}
	slices.SortFunc(list, func(a, b licence) int { return strings.Compare(a.SPDX+a.Name, b.SPDX+b.Name) })
	return list
}

var commonRE = regexp.MustCompile(`/usr/share/common-licenses/([A-Za-z0-9.+-]+)`)

// spdx turns a licence of a copyright file into an SPDX expression; empty when a part of it is not
// known. In such a file "and" binds less than "or" when a comma precedes it. A name that mixes both
// is not converted.
func spdx(name string) string {
	for _, op := range []string{" or ", " and "} {
		parts := strings.Split(name, op)
		if len(parts) == 1 {
			continue
		}
		if strings.Contains(name, " or ") && strings.Contains(name, " and ") {
			return ""
		}
		for i, p := range parts {
			if parts[i] = spdxID(p); parts[i] == "" {
				return ""
			}
		}
		return strings.Join(parts, strings.ToUpper(op))
	}
	return spdxID(name)
}

// gnuRE matches GNU's licences: family, version, later versions.
var gnuRE = regexp.MustCompile(`^(AGPL|GPL|LGPL|GFDL)-([1-3])(\.[0-9])?(?:\.0)?(\+|-only|-or-later)?$`)

// spdxID is the SPDX identifier of one licence.
func spdxID(name string) string {
	if id := spdxIDs[strings.ToLower(name)]; id != "" {
		return id
	}
	m := gnuRE.FindStringSubmatch(name)
	if m == nil {
		return ""
	}
	version := m[2] + m[3]
	if m[3] == "" {
		version += ".0"
	}
	id := m[1] + "-" + version
	if !slices.Contains(gnuLicences, id) {
		return ""
	}
	if m[4] == "+" || m[4] == "-or-later" {
		return id + "-or-later"
	}
	return id + "-only"
}

// gnuLicences are the GNU licences of SPDX, without -only and -or-later.
var gnuLicences = []string{"GPL-1.0", "GPL-2.0", "GPL-3.0", "LGPL-2.0", "LGPL-2.1", "LGPL-3.0", "AGPL-3.0",
	"GFDL-1.1", "GFDL-1.2", "GFDL-1.3"}

// spdxIDs are the other names with a known identifier, in lower case. Debian's Expat is SPDX's MIT.
// Debian's names of BSD licences with a suffix are ambiguous.
var spdxIDs = map[string]string{
	"0bsd": "0BSD", "afl-2.1": "AFL-2.1", "apache-2": "Apache-2.0",
	"apache-2.0": "Apache-2.0", "artistic-2.0": "Artistic-2.0",
	"artistic": "Artistic-1.0-Perl", "beerware": "Beerware", "bsd-2-clause": "BSD-2-Clause",
	"bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause",
	"bsl-1.0": "BSL-1.0", "cc0-1.0": "CC0-1.0", "cc0": "CC0-1.0", "cc-by-3.0": "CC-BY-3.0",
	"cc-by-4.0": "CC-BY-4.0", "cc-by-sa-3.0": "CC-BY-SA-3.0",
	"cc-by-sa-4.0": "CC-BY-SA-4.0", "curl": "curl", "expat": "MIT", "mit": "MIT", "fsfap": "FSFAP",
	"fsful": "FSFUL", "fsfullr": "FSFULLR",
	"isc": "ISC", "latex2e": "Latex2e", "libpng": "Libpng", "mpl-1.1": "MPL-1.1", "mpl-2.0": "MPL-2.0",
	"openssl": "OpenSSL", "postgresql": "PostgreSQL",
	"python-2.0": "Python-2.0", "sleepycat": "Sleepycat", "unicode-dfs-2016": "Unicode-DFS-2016",
	"unlicense": "Unlicense", "x11": "X11", "zlib": "Zlib",
	"bsd-4-clause-uc": "BSD-4-Clause-UC", "gfdl-niv-1.3": "GFDL-1.3-no-invariants-only",
	"gfdl-niv-1.3+": "GFDL-1.3-no-invariants-or-later",
	"gfdl-niv-1.2":  "GFDL-1.2-no-invariants-only", "gfdl-niv-1.2+": "GFDL-1.2-no-invariants-or-later",
	"gpl-2 with linux-syscall-note exception": "GPL-2.0-only WITH Linux-syscall-note",
	"gpl-3+ with bison exception":             "GPL-3.0-or-later WITH Bison-exception-2.2",
}
