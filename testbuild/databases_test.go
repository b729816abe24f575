//go:build e2e

package testbuild

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// madeDatabase is a database that a machine makes.
type madeDatabase struct {
	name   string // of the script
	folder string
	whole  string // is in the folder when the database is whole
	empty  string // shell command that makes the folder as the image has it
	works  string // shell command that succeeds with a working database
}

var madeDatabases = []madeDatabase{
	{"postgresql", "/var/lib/postgresql/17/main", "PG_VERSION", "install -d -o postgres -g postgres -m 0700",
		"echo 'select 40+2' | runuser -u postgres -- /usr/lib/postgresql/17/bin/postgres --single -D $folder " +
			"-c config_file=/etc/postgresql/17/main/postgresql.conf -c ssl=off -c external_pid_file= postgres | grep -w 42"},
	{"mariadb", "/var/lib/mysql", "mysql", "install -d -o mysql -g mysql",
		"echo 'select 40+2 from mysql.global_priv limit 1 into outfile \"/tmp/answer\";' | mariadbd --user=mysql " +
			"--datadir=$folder --bootstrap --secure-file-priv= && grep -w 42 /tmp/answer"},
}

// unpackedRoot is the root of an image, unpacked.
type unpackedRoot struct {
	t   *testing.T
	dir string
}

// command prepares a shell command in the root, as root of the host; all that it starts ends with it.
func (r unpackedRoot) command(ctx context.Context, script string) *exec.Cmd {
	const enter = `cd "$1"
mount -t proc proc proc && mount -t tmpfs tmpfs dev && mount -t tmpfs tmpfs run && mount -t tmpfs tmpfs tmp || exit
for d in null zero urandom; do : >dev/$d && mount --bind /dev/$d dev/$d || exit; done
mkdir dev/shm && chmod 1777 dev/shm tmp && exec chroot . /bin/sh -ec "$2"`
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "sh", "-c", enter,
		"sh", r.dir, script)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "LC_ALL=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (r unpackedRoot) run(script string) (string, error) {
	r.t.Helper()
	out, err := r.command(r.t.Context(), script).CombinedOutput()
	return string(out), err
}

func (r unpackedRoot) must(script string) string {
	r.t.Helper()
	out, err := r.run(script)
	if err != nil {
		r.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// TestSceneDatabasesAreMade: a database is made at the first boot, also on the top of a volume. A boot
// that ends in the middle leaves nothing that the next one does not make whole, and what a person put
// there stays.
func TestSceneDatabasesAreMade(t *testing.T) {
	requireAll(t)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "itb-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	s := &accountsScene{t: t, ctx: ctx, dir: dir, store: filepath.Join(dir, "store")}
	s.profile("db", "name: db\nextends: lab\npackages: [postgresql, mariadb-server]\nram: {budget: 4GiB}\n")
	store, im := s.build("", "db", "v1")
	r := unpackedRoot{t, filepath.Join(dir, "root")}
	out, err := exec.CommandContext(ctx, "unsquashfs", "-q", "-n", "-d", r.dir,
		store.Blob(im.Manifest.Root.Digest)).CombinedOutput()
	if err != nil {
		t.Fatalf("unsquashfs: %v: %s", err, out)
	}
	for _, d := range madeDatabases {
		t.Run(d.name, func(t *testing.T) {
			r := unpackedRoot{t, r.dir}
			began := time.Now()
			r.must(d.script())
			took := time.Since(began)
			r.must(d.check())
			for range 6 {
				r.dies(d, took)
			}
			if out := r.must(d.script()); out != "" {
				t.Errorf("making it again said %s", out)
			}
			r.must(d.check())
			r.leaves(d)
		})
	}
	r.otherVersion()
}

func (d madeDatabase) script() string { return "sh /usr/lib/ingot/secrets/" + d.name }
func (d madeDatabase) check() string  { return "folder=" + d.folder + "; " + d.works }

// dies ends the making at a random moment, on an empty folder such as mkfs leaves, and makes it again.
func (r unpackedRoot) dies(d madeDatabase, took time.Duration) {
	r.t.Helper()
	r.must(fmt.Sprintf("rm -rf %s && %s %[1]s && mkdir -m 0700 %[1]s/lost+found", d.folder, d.empty))
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Duration(0.7*rand.Float64()*float64(took)))
	err := r.command(ctx, d.script()).Run()
	cancel()
	left := r.must("ls -A " + d.folder)
	r.t.Logf("%s: ended (%v), which left %s", d.name, err, strings.Fields(left))
	r.must(d.script())
	r.must(d.check())
	r.must(fmt.Sprintf("test -d %s/lost+found && ! test -e %[1]s/.ingot-new", d.folder))
}

// leaves looks for what is not ingot's to change: files without a database, and links elsewhere.
func (r unpackedRoot) leaves(d madeDatabase) {
	r.t.Helper()
	r.must(fmt.Sprintf("rm -rf %s && %s %[1]s && echo mine >%[1]s/mine", d.folder, d.empty))
	var exit *exec.ExitError
	if out, err := r.run(d.script()); !errors.As(err, &exit) || !strings.Contains(out, "has files, but no "+d.whole) {
		r.t.Errorf("%s beside files: %v, %s", d.name, err, out)
	}
	r.must(fmt.Sprintf("test \"$(ls -A %s)\" = mine && rm -rf %[1]s && mkdir -p /srv/x && ln -s /srv/x %[1]s", d.folder))
	if out, err := r.run(d.script()); !errors.As(err, &exit) || !strings.Contains(out, "is a link") {
		r.t.Errorf("%s behind a link: %v, %s", d.name, err, out)
	}
	r.must(fmt.Sprintf("test \"$(stat -c %%U /srv/x)\" = root && test -z \"$(ls -A /srv/x)\" && rm %s", d.folder))
}

// otherVersion: the data of a version that the image lacks gets no empty cluster beside it.
func (r unpackedRoot) otherVersion() {
	r.t.Helper()
	r.must("mkdir -p /var/lib/postgresql/15/main && echo 15 >/var/lib/postgresql/15/main/PG_VERSION")
	if out, err := r.run("sh /usr/lib/ingot/secrets/postgresql"); err == nil || !strings.Contains(out,
		"is of PostgreSQL 15, which this image lacks") {
		r.t.Errorf("a cluster beside an older one: %v, %s", err, out)
	}
	r.must("! test -e /var/lib/postgresql/17/main/PG_VERSION")
}
