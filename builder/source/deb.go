package source

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// deb is a package that was read and verified: its control files in memory, its files as an
// uncompressed tar on disk (deb(5)).
type deb struct {
	Package
	control []controlFile
	record  string // the text of the control file
	files   []debFile
	tar     string
}

type controlFile struct {
	name    string
	mode    int64
	content []byte
}

// debFile is an entry of data.tar, with the offset of its content in the tar.
type debFile struct {
	*tar.Header
	name string // as dpkg lists it: "/usr/bin/x", "/." for the root
	at   int64
}

// limits of what is read into memory.
const maxControl = 64 << 20

// readDeb reads a package of the cache and writes its files as a tar to spool.
// A package whose bytes are not those of its digest is removed from the cache.
func readDeb(ctx context.Context, c Cache, p Package, spool string) (*deb, error) {
	f, err := os.Open(c.Path(p))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", p.Name, err)
	}
	defer f.Close()
	d, sum := &deb{Package: p, tar: spool}, sha256.New()
	r := io.TeeReader(bufio.NewReaderSize(f, 256<<10), sum)
	failed := d.members(ctx, r)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	// A wrong digest explains every other error, so the file is read to its end and the digest is
	// compared first.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, fmt.Errorf("reading %s: %w", p.Name, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != p.SHA256 {
		os.Remove(c.Path(p))
		return nil, fmt.Errorf("reading %s from the cache: %w: sha256 is %s…; want %s…; the file was removed; build again",
			p.Name, ErrDigest, got[:12], p.SHA256[:12])
	}
	if failed == nil {
		failed = d.list(ctx)
	}
	if failed != nil {
		return nil, fmt.Errorf("reading %s %s: %w", p.Name, p.Version, failed)
	}
	return d, nil
}

// members reads the members of the ar archive (ar(5)).
func (d *deb) members(ctx context.Context, r io.Reader) error {
	var magic [8]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil || string(magic[:]) != "!<arch>\n" {
		return errors.New("not a Debian package")
	}
	data := false
	for !data {
		var head [60]byte
		if _, err := io.ReadFull(r, head[:]); err == io.EOF {
			break
		} else if err != nil {
			return fmt.Errorf("a member's header: %w", err)
		}
		size, err := strconv.ParseInt(strings.TrimSpace(string(head[48:58])), 10, 64)
		if err != nil || size < 0 || string(head[58:]) != "`\n" {
			return errors.New("a member's header is damaged")
		}
		body := &io.LimitedReader{R: r, N: size}
		name := strings.TrimSuffix(strings.TrimSpace(string(head[:16])), "/")
		switch {
		case strings.HasPrefix(name, "control.tar"):
			err = d.readControl(body, strings.TrimPrefix(name, "control.tar"))
		case strings.HasPrefix(name, "data.tar"):
			data = true
			err = spoolData(ctx, body, strings.TrimPrefix(name, "data.tar"), d.tar)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, err := io.CopyN(io.Discard, r, body.N+size&1); err != nil && !(data && errors.Is(err, io.EOF)) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if !data || d.record == "" {
		return errors.New("not a Debian package: control or data is missing")
	}
	return nil
}

// plain returns r uncompressed. suffix is that of the member's name.
func plain(r io.Reader, suffix string) (io.Reader, func(), error) {
	nothing := func() {}
	switch suffix {
	case "":
		return r, nothing, nil
	case ".xz":
		x, err := xz.NewReader(r)
		return x, nothing, err
	case ".gz":
		z, err := gzip.NewReader(r)
		return z, nothing, err
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nothing, err
		}
		return z, z.Close, nil
	}
	return nil, nothing, fmt.Errorf("compressed as %q, which ingot cannot read; it reads xz, gz and zst", suffix)
}

func (d *deb) readControl(r io.Reader, suffix string) error {
	r, done, err := plain(r, suffix)
	if err != nil {
		return err
	}
	defer done()
	for t := tar.NewReader(io.LimitReader(r, maxControl)); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(t)
		if err != nil {
			return err
		}
		name := path.Base(h.Name)
		if name == "control" {
			d.record = strings.TrimSpace(string(content)) + "\n"
			continue
		}
		d.control = append(d.control, controlFile{name, h.Mode & 0o777, content})
	}
}

// inProcess is the size of xz data below which starting a process takes longer than it saves.
const inProcess = 16 << 10

// spoolData writes the uncompressed member to a file. The xz program reads
// several times faster than the Go package.
func spoolData(ctx context.Context, r *io.LimitedReader, suffix, to string) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	if suffix == ".xz" && r.N > inProcess {
		var stderr bytes.Buffer
		cmd := exec.CommandContext(ctx, "xz", "--decompress", "--stdout", "--no-warn", "--threads=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = r, f, &stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("running xz: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
		}
		return f.Close()
	}
	in, done, err := plain(r, suffix)
	if err != nil {
		return err
	}
	defer done()
	if _, err := io.Copy(f, in); err != nil {
		return err
	}
	return f.Close()
}

// list reads the headers of the spooled tar.
func (d *deb) list(ctx context.Context) error {
	f, err := os.Open(d.tar)
	if err != nil {
		return err
	}
	defer f.Close()
	counted := &offset{f: f}
	for t := tar.NewReader(counted); ; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("data.tar: %w", err)
		}
		name := path.Clean("/" + h.Name)
		if name == "/" {
			name = "/."
		}
		d.files = append(d.files, debFile{h, name, counted.n})
	}
}

// offset counts where archive/tar is in the file, and lets it seek over content.
type offset struct {
	f *os.File
	n int64
}

func (o *offset) Read(p []byte) (int, error) {
	n, err := o.f.Read(p)
	o.n += int64(n)
	return n, err
}

func (o *offset) Seek(at int64, whence int) (int64, error) {
	n, err := o.f.Seek(at, whence)
	if err == nil {
		o.n = n
	}
	return n, err
}

// script returns the content of a control file, or nil.
func (d *deb) script(name string) []byte {
	for _, c := range d.control {
		if c.name == name {
			return c.content
		}
	}
	return nil
}

// instance is the package's name in dpkg's database: with its architecture when packages of several
// architectures can be installed together.
func (d *deb) instance() string {
	if field(d.record, "Multi-Arch") == "same" {
		return d.Name + ":" + d.Arch
	}
	return d.Name
}

// relation is one alternative of a dependency field (Debian policy 7.1).
type relation struct{ name, op, version string }

// relations reads a dependency field: a list of lists of alternatives.
func (d *deb) relations(name string) [][]relation {
	var all [][]relation
	for _, group := range strings.Split(folded(d.record, name), ",") {
		var alternatives []relation
		for _, one := range strings.Split(group, "|") {
			var r relation
			one, rest, _ := strings.Cut(strings.TrimSpace(one), "(")
			r.name, _, _ = strings.Cut(strings.TrimSpace(one), ":")
			rest, _, _ = strings.Cut(rest, ")")
			r.op, r.version, _ = strings.Cut(strings.TrimSpace(rest), " ")
			if r.name != "" {
				alternatives = append(alternatives, r)
			}
		}
		if len(alternatives) > 0 {
			all = append(all, alternatives)
		}
	}
	return all
}

// folded returns a field that may continue over several lines (deb822(5)).
func folded(record, name string) string {
	var value []string
	in := false
	for _, line := range strings.Split(record, "\n") {
		if in && strings.HasPrefix(line, " ") {
			value = append(value, strings.TrimSpace(line))
			continue
		}
		v, ok := strings.CutPrefix(line, name+":")
		if in = ok; in {
			value = append(value, strings.TrimSpace(v))
		}
	}
	return strings.Join(value, " ")
}
