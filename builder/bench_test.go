package builder

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"ingot/builder/squashfs"
	"ingot/builder/tree"
	"ingot/image"
	"ingot/profiles"
)

// TestMain packs a root when a benchmark asks for it in a process of its own,
// so that its memory can be measured like that of any other program.
func TestMain(m *testing.M) {
	if args := os.Getenv("INGOT_BENCH_PACK"); args != "" {
		if err := packChild(strings.Split(args, "|")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// packChild is: tar, image, level, block size, cache.
func packChild(args []string) error {
	t, err := tree.FromTar(context.Background(), args[0])
	if err != nil {
		return err
	}
	f, err := os.Create(args[1])
	if err != nil {
		return err
	}
	defer f.Close()
	var o squashfs.Options
	if o.Level, err = strconv.Atoi(args[2]); err != nil {
		return err
	}
	if o.BlockSize, err = strconv.Atoi(args[3]); err != nil {
		return err
	}
	if args[4] != "" {
		o.Cache = &squashfs.Cache{Dir: args[4]}
	}
	_, err = squashfs.Write(context.Background(), f, squashEntries(t, 0), o)
	return err
}

// nodeBuild is the node profile, resolved and its packages fetched.
func nodeBuild(tb testing.TB) *build {
	tb.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		tb.Fatal(err)
	}
	cache = filepath.Join(cache, "ingot")
	init := filepath.Join(tb.TempDir(), "ingot-init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", init, "ingot/cmd/ingot-init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
	keys, err := image.LoadOrCreateKeys(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	p, err := profiles.Load("node")
	if err != nil {
		tb.Fatal(err)
	}
	plan, _, err := Resolve(tb.Context(), p, PlanOptions{CacheDir: cache, Init: init, Keys: keys})
	if err != nil {
		tb.Fatal(err)
	}
	b, done, err := newBuild(plan, BuildOptions{CacheDir: cache, Keys: keys, Init: init})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(done)
	if err := b.fetch(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return b
}

// nodeRoot is the root of the node profile as a canonical tar.
func nodeRoot(tb testing.TB) (tar string, content int64) {
	tb.Helper()
	b := nodeBuild(tb)
	root, err := b.baseTree(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	kernel, err := b.kernelTree(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	if _, _, err := takeKernel(kernel); err != nil {
		tb.Fatal(err)
	}
	if err := b.merge(root, kernel); err != nil {
		tb.Fatal(err)
	}
	for _, e := range root.Entries() {
		content += e.Size
	}
	tar = b.at("root.tar")
	f, err := os.Create(tar)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := root.WriteTar(tb.Context(), f, b.epoch); err != nil {
		tb.Fatal(err)
	}
	return tar, content
}

// BenchmarkRoot packs the root of the node profile, beside the usual tools.
// Each is a process; size is that of the image, rss the most memory.
func BenchmarkRoot(b *testing.B) {
	tar, content := nodeRoot(b)
	dir := filepath.Join(filepath.Dir(tar), "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	if out, err := exec.Command("tar", "--extract", "--file", tar, "--directory", dir).CombinedOutput(); err != nil {
		b.Fatalf("tar: %v: %s", err, out)
	}
	out := filepath.Join(filepath.Dir(tar), "out")
	cache := filepath.Join(filepath.Dir(tar), "blocks")
	ours := func(level, block int, cache string) func() *exec.Cmd {
		return func() *exec.Cmd {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), fmt.Sprintf("INGOT_BENCH_PACK=%s|%s|%d|%d|%s", tar, out, level, block, cache))
			return cmd
		}
	}
	mksquashfs := func(level string) func() *exec.Cmd {
		return func() *exec.Cmd {
			return exec.Command("mksquashfs", dir, out, "-noappend", "-no-progress", "-comp", "zstd", "-Xcompression-level", level, "-all-time", "0")
		}
	}
	tar2sqfs := func(level string) func() *exec.Cmd {
		return func() *exec.Cmd {
			cmd := exec.Command("tar2sqfs", "-q", "-f", "-c", "zstd", "-X", "level="+level, out)
			f, err := os.Open(tar)
			if err != nil {
				b.Fatal(err)
			}
			cmd.Stdin = f
			return cmd
		}
	}
	for _, c := range []struct {
		name string
		cmd  func() *exec.Cmd
	}{
		{"level=3/ingot", ours(3, 128<<10, "")}, {"level=3/tar2sqfs", tar2sqfs("3")}, {"level=3/mksquashfs", mksquashfs("3")},
		{"fast/ingot", ours(1, 128<<10, "")}, {"balanced/ingot", ours(3, 256<<10, "")},
		{"cache=filled/ingot", ours(3, 256<<10, cache)}, {"cache=warm/ingot", ours(3, 256<<10, cache)},
		{"release/ingot", ours(19, 1<<20, "")}, {"release/mksquashfs-15", mksquashfs("15")},
	} {
		b.Run(c.name, func(b *testing.B) {
			var rss int64
			var size int64
			b.SetBytes(content)
			for b.Loop() {
				cmd := c.cmd()
				said, err := cmd.CombinedOutput()
				if err != nil {
					b.Fatalf("%v: %s", err, said)
				}
				rss = max(rss, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
				st, err := os.Stat(out)
				if err != nil {
					b.Fatal(err)
				}
				size = st.Size()
			}
			b.ReportMetric(float64(size)/(1<<20), "MiB-image")
			b.ReportMetric(float64(rss)/1024, "MiB-rss")
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/op")
		})
	}
}
