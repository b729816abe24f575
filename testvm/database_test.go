//go:build e2e

package testvm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/api"
)

// TestSceneDatabaseOnVolume is the example of docs: a PostgreSQL server on a new volume is healthy, and its
// rows are there after an upgrade to an image with more packages, and after the rollback.
func TestSceneDatabaseOnVolume(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newStageFor(t, 30*time.Minute)
	text, err := os.ReadFile("../docs/examples/postgresql/profile.yaml")
	if err != nil {
		t.Fatal(err)
	}
	small := strings.Replace(string(text), "extends: node", "extends: lab", 1)
	small = strings.Replace(small, "shared_buffers = 256MB", "shared_buffers = 32MB", 1)
	s.build("postgresql", "v1", small)
	s.build("postgresql", "v2", strings.Replace(small, "packages:\n", "packages:\n  - redis-server\n", 1))
	d, err := NewDisk(filepath.Join(s.dir, "pgdata.img"), "SER-pgdata", 512<<20)
	if err != nil {
		t.Fatal(err)
	}
	s.router()
	s.serve()
	vm := s.start(1, Config{Firmware: BIOS, RAM: 2048, Disks: []Disk{d}})
	s.machine(vm, "the machine to be seen", func(api.Machine) bool { return true })
	s.run("grant", vm.id(), "pgdata", "--disk", "SER-pgdata")
	s.run("machine", "approve", vm.id(), "--name", "db", "--image", "postgresql:v1")
	s.healthy(vm, 1, "postgresql:v1")
	s.login(vm)
	if got := words(s.at(vm, "findmnt -n -o FSTYPE /var/lib/postgresql; stat -c %u:%g:%a /var/lib/postgresql "+
		"/var/lib/postgresql/17/main; systemctl is-active postgresql@17-main")); got !=
		"ext4 5432:5432:755 5432:5432:700 active" {
		t.Errorf("the volume is %q", got)
	}
	const sql = "runuser -u postgres -- psql --pset=pager=off -qtA -c "
	s.at(vm, sql+`"CREATE TABLE boots (image text)"`)
	s.at(vm, sql+`"INSERT INTO boots VALUES ('v1')"`)
	for n, step := range [][]string{{"v2", "assign", "db", "postgresql:v2"}, {"v1", "rollback", "db"}} {
		s.run(step[1:]...)
		s.reboot(vm)
		s.healthy(vm, n+2, "postgresql:"+step[0])
		s.login(vm)
		s.at(vm, sql+`"INSERT INTO boots VALUES ('`+step[0]+`')"`)
	}
	if got := words(s.at(vm, sql+`"SELECT image FROM boots"`)); got != "v1 v2 v1" {
		t.Errorf("the rows are %q; want one of each boot", got)
	}
	t.Logf("\n%s", s.run("boots", "db", "--timeline"))
}

// build builds an image of a profile for the scene.
func (s *stage) build(name, version, text string) {
	s.t.Helper()
	file := filepath.Join(s.dir, name+".yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	s.run("build", file, "--version", version)
}

// engine is an image with Docker and containerd. Their folders are known to ingot; the profile only
// says that Docker's is kept on a volume when there is one.
const engine = `name: engine
extends: lab
packages: [docker.io, docker-cli, busybox-static]
volumes:
  - {name: images, mount: /srv/images, optional: true, scratch: [/var/lib/docker]}
checks:
  - {name: docker, units: [containerd.service, docker.service], within: 5m}
`

// Commands on a machine with engines: the filesystems of their folders, and an image of a container
// without a registry.
const (
	storage   = "for d in docker containerd; do findmnt -n -o FSTYPE -T /var/lib/$d; done"
	importBox = "mkdir -p /tmp/box/bin && cp $(command -v busybox) /tmp/box/bin/ && tar -C /tmp/box -c . | " +
		"docker import - box"
)

// TestSceneContainers runs containers of Docker and of containerd, with their default settings. Their
// snapshots are overlays, in memory, and on a volume once there is one.
func TestSceneContainers(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newStageFor(t, 30*time.Minute)
	s.build("engine", "v1", engine)
	d, err := NewDisk(filepath.Join(s.dir, "images.img"), "SER-images", 512<<20)
	if err != nil {
		t.Fatal(err)
	}
	s.router()
	s.serve("--approve-all", "--image", "engine:v1")
	vm := s.start(1, Config{Firmware: BIOS, RAM: 2048, Disks: []Disk{d}})
	s.healthy(vm, 1, "engine:v1")
	s.login(vm)
	if got := words(s.at(vm, storage)); got != "tmpfs tmpfs" {
		t.Errorf("Docker's and containerd's folders are on %q; want tmpfs", got)
	}
	s.at(vm, importBox)
	s.runsContainers(vm)
	s.at(vm, "docker save box -o /tmp/box.tar && ctr images import /tmp/box.tar")
	if got := words(s.at(vm, "ctr run --rm docker.io/library/box:latest c1 /bin/busybox sh -c "+
		"'echo of ctr; /bin/busybox grep -o \"/ overlay\" /proc/mounts'")); got != "of ctr / overlay" {
		t.Errorf("a container of containerd said %q; want that its root is an overlay", got)
	}

	s.run("grant", vm.id(), "images", "--disk", "SER-images")
	s.reboot(vm)
	s.healthy(vm, 2, "engine:v1")
	s.login(vm)
	if got := words(s.at(vm, storage+"; docker images -q")); got != "ext4 tmpfs" {
		t.Errorf("with a volume, Docker's and containerd's folders are on %q; want ext4 and tmpfs, and no images", got)
	}
	s.at(vm, importBox)
	s.runsContainers(vm)
	s.reboot(vm)
	s.healthy(vm, 3, "engine:v1")
	s.login(vm)
	s.runsContainers(vm) // the image is there from the boot before
}

// runsContainers runs a container of Docker.
func (s *stage) runsContainers(vm *VM) {
	s.t.Helper()
	if got := words(s.at(vm, "docker info --format '{{.Driver}}'")); got != "overlay2" {
		s.t.Errorf("Docker's storage driver is %q; want overlay2", got)
	}
	if got := words(s.at(vm, "docker run --rm --network none box /bin/busybox sh -c "+
		"'echo of docker; /bin/busybox grep -o \"/ overlay\" /proc/mounts'")); got != "of docker / overlay" {
		s.t.Errorf("a container of Docker said %q; want that its root is an overlay", got)
	}
}
