package secrets

import (
	"bytes"
	"crypto/md5" // dpkg's checksums
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"path"
	"regexp"
	"slices"
	"strings"

	"ingot/builder/inspect"
	"ingot/builder/tree"
)

// Finding is a file that looks like a secret.
type Finding struct {
	Path string // with a leading slash
	Why  string // what it looks like
}

// String describes it for people.
func (f Finding) String() string { return f.Path + ": " + f.Why }

// maxRead bounds what is read of a file: keys are short.
const maxRead = 256 << 10

// Find returns the files of a root that look like secrets. Files that a package ships are the same
// for everybody, and left out; so are those for which skip returns true.
func Find(root *tree.Tree, skip func(p string) bool) ([]Finding, error) {
	shipped, err := shippedFiles(root)
	if err != nil {
		return nil, err
	}
	var list []Finding
	for _, e := range root.Entries() {
		if e.Kind != tree.File || e.Hard != "" || e.Size == 0 || notSearched(e.Path) || skip("/"+e.Path) {
			continue
		}
		sum, ships := shipped[e.Path]
		if ships && sum == "" {
			continue
		}
		content, err := head(e)
		if err != nil {
			return nil, fmt.Errorf("searching %q for secrets: %w", e.Path, err)
		}
		why := looksSecret(e, content)
		if why == "" || ships && md5Of(content) == sum {
			continue
		}
		list = append(list, Finding{"/" + e.Path, why})
	}
	return list, nil
}

// shippedFiles maps what packages ship to the MD5 of a configuration file, which scripts may
// change, or to "".
func shippedFiles(root *tree.Tree) (map[string]string, error) {
	owners, err := inspect.Owners(root, "")
	if err != nil {
		return nil, err
	}
	shipped := map[string]string{}
	for p := range owners {
		shipped[p] = ""
	}
	packages, err := inspect.Packages(root)
	if err != nil {
		return nil, err
	}
	for _, p := range packages {
		for file, sum := range p.Conffiles {
			if _, ok := shipped[file]; ok {
				shipped[file] = sum
			}
		}
	}
	return shipped, nil
}

func md5Of(b []byte) string {
	sum := md5.Sum(b)
	return hex.EncodeToString(sum[:])
}

// notSearched reports whether a file cannot be a secret of scripts: password hashes are those of
// the profile, and the rest is made of what packages ship.
func notSearched(p string) bool {
	return slices.Contains([]string{"etc/shadow", "etc/gshadow", "etc/shadow-", "etc/gshadow-"}, p) ||
		strings.HasPrefix(p, "usr/lib/modules/") || strings.HasPrefix(p, "var/lib/dpkg/") ||
		strings.HasPrefix(p, "usr/lib/ingot/") || strings.Contains(p, "/__pycache__/")
}

func head(e *tree.Entry) ([]byte, error) {
	r, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, maxRead))
}

var (
	pemKey = regexp.MustCompile(`-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY( BLOCK)?-----\s[^-]{40}`)
	// https://www.wireguard.com/ "PrivateKey"; named.conf(5) "secret"
	wireGuard = regexp.MustCompile(`(?m)^\s*PrivateKey\s*=\s*[A-Za-z0-9+/]{43}=`)
	tsig      = regexp.MustCompile(`(?m)^\s*secret\s+"?[A-Za-z0-9+/]{16,}={0,2}"?;`)
	// RFC 4253 section 6.6: keys of dropbear begin with the name of their type
	sshBlob = regexp.MustCompile(`^\x00\x00\x00[\x07-\x40](ssh-(rsa|dss|ed25519)|ecdsa-sha2-)`)
	// names that say what is in a file that not everybody may read
	secretName = regexp.MustCompile(`(?i)(secret|cookie|passw|token|authkey|private|\.key$|_key$|keytab)`)
)

// looksSecret says what a file looks like; empty: like nothing secret.
func looksSecret(e *tree.Entry, content []byte) string {
	name := path.Base(e.Path)
	switch {
	case pemKey.Match(content) && !strings.HasSuffix(name, ".pub"):
		return "a private key"
	case sshBlob.Match(content) && e.Mode&0o077 == 0:
		return "a private key of SSH"
	case bytes.HasPrefix(content, []byte("PuTTY-User-Key-File-")):
		return "a private key of SSH"
	case wireGuard.Match(content):
		return "a private key of WireGuard"
	case tsig.Match(content):
		return "a shared key"
	case len(content) > 0 && content[0] == 0x30 && derKey(content):
		return "a private key"
	case bytes.HasPrefix(content, []byte{5, 2}) && strings.HasSuffix(name, "keytab"):
		return "a Kerberos keytab"
	case e.Mode&0o007 != 0:
		return "" // what everybody may read is no secret by itself
	case secretName.MatchString(name) && len(bytes.TrimSpace(content)) >= 8 && random(content, 0.6):
		return "a secret, by its name and content"
	case random(content, 0.75) && !spelled(content), random(content, 0.82) && !printable(content):
		return "random bytes that only some users may read"
	}
	return ""
}

func derKey(b []byte) bool {
	if _, err := x509.ParsePKCS8PrivateKey(b); err == nil {
		return true
	}
	if _, err := x509.ParsePKCS1PrivateKey(b); err == nil {
		return true
	}
	_, err := x509.ParseECPrivateKey(b)
	return err == nil
}

// random reports whether all of a file is one word, or bytes, that look drawn by lot: its entropy is
// at least a part of what so many bytes of its alphabet can have.
func random(content []byte, part float64) bool {
	content = bytes.TrimRight(content, "\r\n")
	if len(content) < 16 || len(content) > 8<<10 {
		return false
	}
	if printable(content) && bytes.ContainsAny(content, " \n\t") {
		return false // words, not one word
	}
	var count [256]int
	for _, c := range content {
		count[c]++
	}
	entropy := 0.0
	for _, n := range count {
		if n > 0 {
			p := float64(n) / float64(len(content))
			entropy -= p * math.Log2(p)
		}
	}
	alphabet := 256
	if hexDigits.Match(content) {
		alphabet = 16
	}
	return entropy >= part*math.Log2(float64(min(len(content), alphabet)))
}

var hexDigits = regexp.MustCompile(`^([0-9a-f]+|[0-9A-F]+)$`)

// spelled reports whether a word was chosen rather than drawn by lot: it mixes digits neither with
// small and capital letters, nor with letters of long hexadecimal numbers.
func spelled(content []byte) bool {
	content = bytes.TrimRight(content, "\r\n")
	small, large := bytes.Equal(content, bytes.ToLower(content)), bytes.Equal(content, bytes.ToUpper(content))
	switch {
	case small && large, !bytes.ContainsAny(content, "0123456789"):
		return true
	case hexDigits.Match(content):
		return len(content) < 32
	}
	return small || large
}

func printable(content []byte) bool {
	return !bytes.ContainsFunc(content, func(r rune) bool {
		return r != '\n' && r != '\t' && r != '\r' && (r < ' ' || r > '~')
	})
}

// Differences returns the paths, with a leading slash, of what two runs of the same scripts made
// differently: content, kind, owner, mode, target, or only one of them has it.
func Differences(a, b *tree.Tree) ([]string, error) {
	var list []string
	for _, e := range a.Entries() {
		same, err := equal(e, b.Get(e.Path))
		if err != nil {
			return nil, fmt.Errorf("comparing %q: %w", e.Path, err)
		}
		if !same {
			list = append(list, "/"+e.Path)
		}
	}
	for _, e := range b.Entries() {
		if a.Get(e.Path) == nil {
			list = append(list, "/"+e.Path)
		}
	}
	slices.Sort(list)
	return list, nil
}

func equal(x, y *tree.Entry) (bool, error) {
	if y == nil || x.Kind != y.Kind || x.Mode != y.Mode || x.UID != y.UID || x.GID != y.GID || x.Size != y.Size ||
		x.Target != y.Target || x.Hard != y.Hard || x.Major != y.Major || x.Minor != y.Minor ||
		fmt.Sprint(x.Xattrs) != fmt.Sprint(y.Xattrs) {
		return false, nil
	}
	if x.Kind != tree.File || x.Hard != "" {
		return true, nil
	}
	p, err := x.Open()
	if err != nil {
		return false, err
	}
	defer p.Close()
	q, err := y.Open()
	if err != nil {
		return false, err
	}
	defer q.Close()
	for left, right := make([]byte, 64<<10), make([]byte, 64<<10); ; {
		n, err := io.ReadFull(p, left)
		m, again := io.ReadFull(q, right)
		if n != m || !bytes.Equal(left[:n], right[:m]) {
			return false, nil
		}
		if err != nil || again != nil { // the sizes are the same: both ended
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				return true, nil
			}
			return false, err
		}
	}
}
