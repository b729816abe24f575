package volumes

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot"
	"ingot/profiles"
)

// imageWith makes the root of an image that has files of every kind at a path.
func imageWith(t *testing.T, mount string) string {
	t.Helper()
	root := t.TempDir()
	at := filepath.Join(root, mount)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(at, "17/main"), 0o755))
	must(os.WriteFile(filepath.Join(at, "17/tool"), []byte("program"), 0o755))
	must(os.WriteFile(filepath.Join(at, "conf"), []byte(strings.Repeat("text\n", 5000)), 0o640))
	must(os.Link(filepath.Join(at, "conf"), filepath.Join(at, "17/second-name")))
	must(os.Symlink("/etc/nowhere", filepath.Join(at, "link")))
	must(unix.Mkfifo(filepath.Join(at, "fifo"), 0o622))
	must(unix.Mknod(filepath.Join(at, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	for p, owner := range map[string][2]int{"": {5432, 5433}, "17/main": {5432, 5433}, "17/tool": {33, 34},
		"link": {7, 8}, "conf": {5432, 0}} {
		must(os.Lchown(filepath.Join(at, p), owner[0], owner[1]))
	}
	must(unix.Chmod(filepath.Join(at, "17/main"), 0o2700))
	must(unix.Chmod(filepath.Join(at, "17/tool"), 0o6755))
	must(unix.Chmod(at, 0o1775))
	// vfs_cap_data, revision 2: cap_net_bind_service is effective and permitted (capabilities(7)).
	must(unix.Setxattr(filepath.Join(at, "conf"), "security.capability",
		append([]byte{1, 0, 0, 2, 0, 4}, make([]byte, 14)...), 0))
	for _, p := range []string{"", "17/main"} {
		must(unix.Setxattr(filepath.Join(at, p), "trusted.test", []byte("of "+p), 0))
	}
	old := time.Unix(1700000000, 123456789)
	must(filepath.WalkDir(at, func(p string, d fs.DirEntry, err error) error {
		if d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		return os.Chtimes(p, old, old)
	}))
	return root
}

// archive is a digest of a folder's owner, mode and attribute, and of all that tar can say of what is in
// it: names, owners, modes, times, links, contents and extended attributes.
func archive(t *testing.T, folder string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(folder, &st); err != nil {
		t.Fatal(err)
	}
	attribute := make([]byte, 100)
	n, _ := unix.Lgetxattr(folder, "trusted.test", attribute)
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	argv := []string{"--create", "--file=-", "--directory", folder, "--numeric-owner", "--format=pax", "--sort=name",
		"--pax-option=delete=atime,delete=ctime", "--xattrs", "--xattrs-include=*", "--files-from=/dev/null"}
	for _, e := range entries {
		if e.Name() != "lost+found" && e.Name() != ownName {
			argv = append(argv, e.Name())
		}
	}
	out, err := exec.Command("tar", argv...).Output()
	if err != nil {
		t.Fatalf("tar of %s: %v", folder, err)
	}
	return fmt.Sprintf("%d:%d %o %q %x", st.Uid, st.Gid, st.Mode, attribute[:max(n, 0)], sha256.Sum256(out))
}

// mounted mounts the volume "data" of a machine with a grant, looks at it, and takes it down.
func (d *oneDisk) mounted(image, options string, look func()) ingot.VolumeResult {
	d.t.Helper()
	m := mounter(d.t)
	m.At, m.Image = d.at, image
	on := Machine{Fleet: strings.Repeat("ab", 16), ID: "m-1", Now: time.Unix(1, 0),
		Grants: []ingot.Grant{{Volume: "data", Disk: "S1", Expires: on2038}}}
	results, _ := m.Mount(d.t.Context(), []ingot.Volume{{Name: "data", Mount: d.target, Options: options}}, on)
	r := results[0].VolumeResult
	if r.Mounted() {
		if look != nil {
			look()
		}
		if err := unix.Unmount(d.target, 0); err != nil {
			d.t.Fatalf("unmounting the volume: %v", err)
		}
	} else if err := unix.Unmount(d.target, 0); err == nil {
		d.t.Errorf("the volume is %s, and mounted all the same", r.State)
	}
	return r
}

// like compares a volume with what an image has at its mount point.
func (d *oneDisk) like(image string) func() {
	return func() {
		d.t.Helper()
		if archive(d.t, filepath.Join(image, d.target)) != archive(d.t, d.target) {
			got, _ := exec.Command("find", d.target, "-printf", "%P %U:%G %m %y %l\n").CombinedOutput()
			d.t.Errorf("the volume differs from the image's files:\n%s", got)
		}
	}
}

// TestNewVolumeHasImagesFiles: a volume that was just made has what the image has there, and keeps
// what becomes of it.
func TestNewVolumeHasImagesFiles(t *testing.T) {
	d := newOneDisk(t)
	image := imageWith(t, d.target)
	d.want(d.mounted(image, "noatime", d.like(image)), ingot.VolumeInitialised, "")
	d.want(d.mounted(image, "", func() {
		d.like(image)()
		d.run("rm -r " + d.target + "/17 " + d.target + "/conf && echo mine >" + d.target + "/mine")
	}), ingot.VolumeMounted, "")
	d.want(d.mounted(image, "", func() { // an upgrade
		d.run("test ! -e " + d.target + "/conf && test ! -e " + d.target + "/17 && rm -r " + d.target + "/*")
	}), ingot.VolumeMounted, "")
	d.want(d.mounted(image, "", func() { // emptied by its user
		d.run("test -z \"$(ls -A " + d.target + ")\"")
	}), ingot.VolumeMounted, "")
}

// TestReadOnlyVolumeHasImagesFiles: a volume that nothing can be written to has them, too.
func TestReadOnlyVolumeHasImagesFiles(t *testing.T) {
	d := newOneDisk(t)
	image := imageWith(t, d.target)
	d.want(d.mounted(image, "ro", func() {
		d.like(image)()
		if err := os.WriteFile(filepath.Join(d.target, "x"), nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("writing to the volume = %v; want that it is read-only", err)
		}
	}), ingot.VolumeInitialised, "")
}

// TestUsedVolumeIsLeft: whatever a volume holds that ingot did not put there stays as it is.
func TestUsedVolumeIsLeft(t *testing.T) {
	for name, c := range map[string]struct {
		before string // in the volume's folder, by an image that seeds nothing
		seeded bool
	}{
		"as it was made":         {"true", true},
		"with an identity only":  {"mkdir -p .ingot/identity", true},
		"with a file":            {"echo mine >mine", false},
		"with a stranger's copy": {"mkdir -p .ingot/copied/x && chown -R 1000 .ingot && chown 1000 .", false},
		"with an owner":          {"chown 1000:1000 .", false},
		"with a file, and full":  {"dd if=/dev/zero of=mine bs=64k status=none || :", false},
		"half seeded":            {"mkdir -p .ingot/copying && echo half >.ingot/copying/conf", true},
		"half seeded, then used": {"mkdir -p .ingot/copying && echo half >.ingot/copying/conf && echo mine >conf", false},
	} {
		t.Run(name, func(t *testing.T) {
			d := newOneDisk(t)
			image := imageWith(t, d.target)
			before := ""
			d.want(d.mounted("", "", func() {
				d.run("cd " + d.target + " && " + c.before)
				before = archive(t, d.target)
			}), ingot.VolumeInitialised, "")
			for range 2 {
				d.want(d.mounted(image, "", func() {
					if c.seeded {
						d.like(image)()
					} else if archive(t, d.target) != before {
						t.Error("the volume changed")
					}
				}), ingot.VolumeMounted, "")
			}
		})
	}
}

// TestSeedThatDoesNotFit: the volume is refused with the reason, and is seeded once the image's files fit.
func TestSeedThatDoesNotFit(t *testing.T) {
	d := newOneDisk(t)
	image := imageWith(t, d.target)
	large := filepath.Join(image, d.target, "large")
	d.run("head -c 100M /dev/urandom >" + large)
	for range 2 {
		r := d.mounted(image, "", nil)
		d.want(r, ingot.VolumeFailed, ingot.VolumeUnseeded)
		if !strings.Contains(r.Detail, "no space left") || !strings.Contains(r.Detail, d.target) {
			t.Errorf("the reason is %q; want the place and that there is no space", r.Detail)
		}
	}
	if err := os.Remove(large); err != nil {
		t.Fatal(err)
	}
	d.want(d.mounted(image, "", d.like(image)), ingot.VolumeMounted, "")
}

// seedChild makes this test binary seed a mounted volume: "IMAGE MOUNTPOINT".
const seedChild = "INGOT_TEST_SEED_CHILD"

func init() {
	at := os.Getenv(seedChild)
	if at == "" {
		return
	}
	runtime.LockOSThread() // strace counts the system calls of each thread
	image, mount, _ := strings.Cut(at, " ")
	m := Mounter{Root: "/", Image: image, Log: func(string, ...any) {}}
	if err := m.seed(ingot.Volume{Name: "data", Mount: mount}, ""); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestSeedIsKilled ends the seeding at each of its changes. The next one makes the volume whole, also
// if an image that seeds nothing wrote to it in between.
func TestSeedIsKilled(t *testing.T) {
	d := newOneDisk(t)
	image := imageWith(t, d.target)
	killed, step := 0, 3
	if os.Getenv("INGOT_TEST_ALL") != "" {
		step = 1
	}
	for call := range strings.FieldsSeq("mkdirat copy_file_range symlinkat linkat mknodat renameat fchownat chmod " +
		"fchmodat lsetxattr setxattr utimensat unlinkat syncfs") {
		for n := 1; d.seedKilledAt(image, call, n); n += step {
			killed++
		}
	}
	t.Logf("ended at %d moments", killed)
	if killed < 5 {
		t.Errorf("the seeding was ended %d times; want more", killed)
	}
}

// seedKilledAt ends the seeding of a new volume at the n-th use of a system call, and boots again. It
// returns false if there are not so many.
func (d *oneDisk) seedKilledAt(image, call string, n int) bool {
	d.t.Helper()
	d.run("blkdiscard --force --zeroout " + d.node)
	killed := false
	d.want(d.mounted("", "", func() {
		cmd := exec.CommandContext(d.t.Context(), tool(d.t, "strace"), "-f", "-qq", "-o", "/dev/null", "-e",
			fmt.Sprintf("inject=?%s:signal=SIGKILL:when=%d", call, n), os.Args[0])
		cmd.Env = append(os.Environ(), seedChild+"="+image+" "+d.target)
		killed = cmd.Run() != nil
		if killed && n%2 == 0 {
			d.run("echo mine >" + d.target + "/.mine")
		}
	}), ingot.VolumeInitialised, "")
	if !killed {
		return false
	}
	d.want(d.mounted(image, "", func() {
		if n%2 == 0 { // what becomes of such a volume is another test's
			d.run("test \"$(cat " + d.target + "/.mine)\" = mine")
			return
		}
		d.like(image)()
		d.run("test ! -e " + d.target + "/" + seedCopying + " && test ! -e " + d.target + "/" + seedCopied)
	}), ingot.VolumeMounted, "")
	return true
}

// TestMountPointThatIsALink: what services put on a volume leads no mount elsewhere.
func TestMountPointThatIsALink(t *testing.T) {
	d := newOneDisk(t)
	d.run("mkdir -p " + d.target + "/elsewhere && ln -s elsewhere " + d.target + "/link")
	m := mounter(t)
	for _, p := range []string{"/link", "/link/below"} {
		if err := m.mountAt(d.target+p, "none", "tmpfs", 0, ""); err == nil ||
			!strings.Contains(err.Error(), `"link" is a link or a file`) {
			t.Errorf("mounting at %s = %v; want that the link is refused", p, err)
		}
	}
	if entries, err := os.ReadDir(d.target + "/elsewhere"); err != nil || len(entries) > 0 {
		t.Errorf("something was made behind the link: %v, %v", entries, err)
	}
}

// TestEveryOptionMounts: an option that a profile may have is one that a volume can be mounted with.
func TestEveryOptionMounts(t *testing.T) {
	d := newOneDisk(t)
	file := filepath.Join(t.TempDir(), "p.yaml")
	for _, o := range strings.Fields(`defaults rw ro atime noatime diratime nodiratime relatime strictatime lazytime
		nolazytime dev nodev suid nosuid exec noexec async sync dirsync acl user_xattr discard nodiscard delalloc
		nodelalloc auto_da_alloc noauto_da_alloc barrier barrier=0 nobarrier block_validity noblock_validity dioread_lock
		dioread_nolock init_itable=10 noinit_itable data=journal data=ordered data=writeback errors=continue
		errors=remount-ro errors=panic commit=30 stripe=8 max_batch_time=1 min_batch_time=1 inode_readahead_blks=32
		resuid=1 resgid=1 noatime,nodev,nosuid,noexec,commit=5`) {
		text := "name: p\nextends: lab\nvolumes: [{name: x, mount: /srv/x, options: '" + o + "'}]\n"
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := profiles.Load(file); err != nil {
			t.Errorf("option %s: %v", o, err)
		}
		if r := d.mounted("", o, nil); !r.Mounted() {
			t.Errorf("option %s: the volume is %s: %s", o, r.State, r.Detail)
		}
	}
}

// TestOwnFolder: ingot's folder on a volume is one that only root can have made.
func TestOwnFolder(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to make files of other users")
	}
	for name, make := range map[string]func(p string) error{
		"link":     func(p string) error { return os.Symlink("/etc", p) },
		"of other": func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Chown(p, 1000, 1000)) },
		"writable": func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Chmod(p, 0o777)) },
		"file":     func(p string) error { return os.WriteFile(p, nil, 0o600) },
	} {
		at := t.TempDir()
		if err := make(filepath.Join(at, ".ingot")); err != nil {
			t.Fatal(err)
		}
		own, err := OwnFolder(at)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var st unix.Stat_t
		if err := unix.Lstat(own, &st); err != nil || st.Uid != 0 || st.Mode != unix.S_IFDIR|0o700 {
			t.Errorf("%s: the folder is %o of %d (%v); want root's own", name, st.Mode, st.Uid, err)
		}
		if err := os.WriteFile(filepath.Join(own, "kept"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OwnFolder(at); err != nil || !exists(filepath.Join(own, "kept")) {
			t.Errorf("%s: the folder is not the same at the next boot (%v)", name, err)
		}
	}
}

// TestScratch: overlays work on folders of scratch although the root is an overlay, within the bound
// of the root's tmpfs, and on volumes that keep them.
func TestScratch(t *testing.T) {
	d := newOneDisk(t)
	lower, memory, root := imageWith(t, "/var/lib/engine"), t.TempDir(), t.TempDir()
	mount := func(source, target, fstype, data string) error {
		err := unix.Mount(source, target, fstype, 0, data)
		if err == nil {
			t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
		}
		return err
	}
	overlayOn := func(folder string) error {
		d.run("mkdir -p " + folder + "/upper " + folder + "/work " + folder + "/merged")
		return mount("overlay", folder+"/merged", "overlay", "lowerdir="+lower+",upperdir="+folder+"/upper,workdir="+folder+
			"/work")
	}
	if err := mount("tmpfs", memory, "tmpfs", "size=8M"); err != nil {
		t.Fatal(err)
	}
	d.run("mkdir " + memory + "/upper " + memory + "/work")
	if err := mount("ingot", root, "overlay", "lowerdir="+lower+",upperdir="+memory+"/upper,workdir="+memory+
		"/work"); err != nil {
		t.Skipf("no overlay on tmpfs here: %v", err)
	}
	if err := overlayOn(root + "/plain"); err == nil {
		t.Error("an overlay on the overlay works; want that scratch is needed")
	}
	m := Mounter{Root: root, Image: lower, Log: t.Logf}
	scratch := []ingot.Scratch{{Path: "/var/lib/engine"}, {Path: "/var/lib/other", Volume: "gone"}}
	if err := m.Scratch(scratch, memory+"/scratch", nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.run("umount " + root + "/var/lib/engine " + root + "/var/lib/other") })
	if archive(t, lower+"/var/lib/engine") != archive(t, root+"/var/lib/engine") {
		t.Error("the folder differs from the image's")
	}
	for _, p := range []string{"/var/lib/engine/io", "/var/lib/other/io"} {
		if err := overlayOn(root + p); err != nil {
			t.Errorf("an overlay in %s: %v", p, err)
		}
	}
	if err := os.WriteFile(root+"/var/lib/engine/much", make([]byte, 9<<20), 0o644); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("writing 9 MiB of 8 = %v; want that the tmpfs of the root bounds it", err)
	}
}

// TestVolumeInScratch: a volume that is mounted in a folder of scratch is still there, with what is
// mounted in it.
func TestVolumeInScratch(t *testing.T) {
	d := newOneDisk(t)
	root := t.TempDir()
	m := Mounter{Root: root, Image: imageWith(t, "/engine"), Log: t.Logf}
	var results []Result
	for _, p := range []string{"/engine/volumes", "/engine/volumes/deep", "/engine/other", "/elsewhere"} {
		d.run("mkdir -p " + root + p + " && mount -t tmpfs none " + root + p + " && echo " + p + " >" + root + p + "/file")
		results = append(results, Result{ingot.VolumeResult{Volume: p, State: ingot.VolumeMounted}, ingot.Volume{Mount: p}})
	}
	t.Cleanup(func() { d.run("umount --recursive " + root + "/engine " + root + "/elsewhere") })
	if err := m.Scratch([]ingot.Scratch{{Path: "/engine"}}, t.TempDir(), results); err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if b, err := os.ReadFile(root + r.Spec.Mount + "/file"); err != nil || string(b) != r.Spec.Mount+"\n" {
			t.Errorf("the volume of %s has %q, %v", r.Spec.Mount, b, err)
		}
	}
	d.run("test -e " + root + "/engine/conf && mountpoint -q " + root + "/engine")
}

// TestScratchOnVolume: what is in a folder that a volume keeps, or is on, outlives the boot.
func TestScratchOnVolume(t *testing.T) {
	d := newOneDisk(t)
	image := imageWith(t, "/engine")
	root := filepath.Dir(d.target)
	m := Mounter{Root: root, Image: image, Log: t.Logf}
	results := []Result{{ingot.VolumeResult{Volume: "data", State: ingot.VolumeMounted},
		ingot.Volume{Name: "data", Mount: "/target"}}}
	for boot := range 2 {
		d.mounted("", "", func() {
			err := m.Scratch([]ingot.Scratch{{Path: "/engine", Volume: "data"}, {Path: "/target/x"}}, t.TempDir(), results)
			if err != nil {
				t.Fatal(err)
			}
			defer d.run("umount " + root + "/engine")
			if boot == 0 && archive(t, image+"/engine") != archive(t, root+"/engine") {
				t.Error("the folder differs from the image's")
			}
			if _, err := os.Stat(root + "/engine/kept"); (err == nil) != (boot == 1) {
				t.Errorf("boot %d: what was kept: %v", boot, err)
			}
			d.run("echo kept >" + root + "/engine/kept; test -s " + d.target + "/.ingot/scratch/engine/kept; ! mountpoint -q " +
				d.target + "/x")
		})
	}
}
