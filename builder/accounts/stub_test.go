package accounts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// etc is a folder that stands in for /etc, in a mount namespace, with the tools of this host behind
// Stub.
type etc struct {
	t     *testing.T
	dir   string
	given List
}

// newEtc makes the files that the tools need. It skips the test where they are not Debian's.
func newEtc(t *testing.T, given List) *etc {
	t.Helper()
	for _, tool := range []string{"/usr/sbin/adduser", "/usr/sbin/useradd", "/usr/sbin/groupadd",
		"/usr/bin/systemd-sysusers", "/usr/bin/perl", "/usr/bin/unshare"} {
		if _, err := os.Stat(tool); err != nil {
			t.Skipf("needs Debian's %s", tool)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	e := &etc{t, t.TempDir(), given}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
		"etc/group":  "root:x:0:\nnogroup:x:65534:\n", "etc/shadow": "root:*:1::::::\nnobody:*:1::::::\n",
		"etc/gshadow": "root:*::\nnogroup:*::\n", "etc/adduser.conf": "DSHELL=/bin/sh\n",
		"etc/login.defs": "UID_MIN 1000\nGID_MIN 1000\nUSERGROUPS_ENAB yes\n", "etc/skel/.keep": "",
		"etc/nsswitch.conf":         "passwd: files\ngroup: files\nshadow: files\ngshadow: files\n",
		"etc/sysusers.d/both.conf":  "u sysboth - \"Both\" /var/empty\ng sysgroup -\nm sysboth sysgroup\n",
		"etc/sysusers.d/other.conf": "g sysother -\nu sysuser -:sysother\nm sysmade sysother\nu sysfixed 777\n",
		"etc/pam.d/chfn":            "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\n",
	} {
		e.write(name, text, 0o644)
	}
	return e
}

func (e *etc) write(name, text string, mode os.FileMode) {
	e.t.Helper()
	path := filepath.Join(e.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		e.t.Fatal(err)
	}
}

// run runs a script as a maintainer script would be, and returns the accounts that there are then.
func (e *etc) run(script string) List {
	e.t.Helper()
	e.write("stub", Stub, 0o755)
	e.write("script", script, 0o755)
	e.write("accounts/uids", string(e.given.Numbers(User)), 0o644)
	e.write("accounts/gids", string(e.given.Numbers(Group)), 0o644)
	prepare := `set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=0755 test /home
mount -t tmpfs -o mode=0755 test /var/lib/misc
mkdir /.ingot
trap 'umount -l /.ingot; rmdir /.ingot' EXIT
mount -t tmpfs -o mode=0755 test /.ingot
mkdir /.ingot/original /.ingot/accounts
cp "$DIR"/accounts/* /.ingot/accounts/
for tool in /usr/sbin/adduser /usr/sbin/useradd /usr/sbin/groupadd /usr/bin/systemd-sysusers; do
	cp -p $tool /.ingot/original/
	mount --bind "$DIR/stub" $tool
done
mount --bind "$DIR/etc" /etc
sh -eux "$DIR/script"
`
	cmd := exec.Command("unshare", "--mount", "--uts", "sh", "-c", prepare)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DIR=" + e.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if said, err := cmd.CombinedOutput(); err != nil {
		e.t.Fatalf("%v:\n%s", err, said)
	}
	return Read(e.read("etc/passwd"), e.read("etc/group"))
}

func (e *etc) read(name string) []byte {
	e.t.Helper()
	b, err := os.ReadFile(filepath.Join(e.dir, name))
	if err != nil {
		e.t.Fatal(err)
	}
	return b
}

// everyWay makes accounts in every way that maintainer scripts do.
const everyWay = `
adduser --system --quiet --group --no-create-home --home /var/lib/a addboth
adduser --quiet --system --no-create-home adduserless
addgroup --system addgroup1
adduser --system --ingroup addgroup1 --no-create-home addmember
adduser --system --group --home /home/away away
useradd --system -g addgroup1 -d /x -s /bin/false rawmember
useradd -rUM -d/x rawboth
useradd -r --no-user-group rawalone
groupadd --system rawgroup
groupadd -r -f rawgroup
systemd-sysusers both.conf
systemd-sysusers other.conf
printf 'u sysstdin -\n' | systemd-sysusers -
systemd-sysusers --inline 'u sysinline - "In line"'
adduser --system --group --no-create-home addboth
`

// TestStubGivesNumbers: each way of making an account gives the number of the list, for user and
// group, and everything else as without the list.
func TestStubGivesNumbers(t *testing.T) {
	names := []string{"addboth", "adduserless", "addgroup1", "addmember", "away", "rawmember", "rawboth", "rawalone",
		"rawgroup", "sysboth", "sysgroup", "sysother", "sysuser", "sysmade", "sysstdin", "sysinline"}
	given := List{}
	for i, name := range names {
		given = given.Set(User, name, 700-i).Set(Group, name, 500+i)
	}
	given = given.Set(User, "away", 5432)
	e := newEtc(t, given)
	got := e.run(everyWay)
	for _, c := range given.Changes(got) {
		t.Errorf("%s %s has the number %d; want %d", c.Kind, c.Name, c.After, c.Before)
	}
	for _, name := range []string{"addboth", "away", "rawboth", "sysboth", "sysmade", "sysstdin", "sysinline"} {
		if got.Get(User, name) == 0 || got.Get(Group, name) == 0 {
			t.Errorf("%s lacks its user or its group: %v", name, got)
		}
	}
	if got.Get(User, "sysfixed") != 777 {
		t.Errorf("a number that a package insists on became %d", got.Get(User, "sysfixed"))
	}
	passwd := string(e.read("etc/passwd"))
	for _, want := range []string{"addboth:x:700:500::/var/lib/a:/usr/sbin/nologin", "addmember:x:697:502:",
		"away:x:5432:504::/home/away:", fmt.Sprintf("rawmember:x:695:%d::/x:/bin/false", 502), "rawboth:x:694:506::/x:",
		"sysboth:x:691:509:Both:/var/empty:", "adduserless:x:699:65534:", "sysuser:x:688:511:"} {
		if !strings.Contains(passwd, want) {
			t.Errorf("passwd lacks %q:\n%s", want, passwd)
		}
	}
	if groups := string(e.read("etc/group")); !strings.Contains(groups, "sysgroup:x:510:sysboth\n") {
		t.Errorf("group:\n%s", groups)
	}
}

// TestStubNumbersLikeNumber: names that are not in the list get the numbers that Number gives them,
// so that packages need not be configured twice; a number that is kept for another account is not
// used, and an ordinary user keeps being one.
func TestStubNumbersLikeNumber(t *testing.T) {
	kept := List{}
	for n := 100; n < 140; n++ { // where adduser would begin
		kept = kept.Set(User, fmt.Sprintf("kept%d", n), n).Set(Group, fmt.Sprintf("kept%d", n), n)
	}
	kept = kept.Set(User, "kept", slotOf("rawboth"))
	e := newEtc(t, kept)
	e.write("etc/sysusers.d/other.conf", "g sysother -\nu sysuser -:sysother\nm sysmade sysother\n", 0o644)
	got := e.run(everyWay + "adduser --disabled-password --gecos x --no-create-home person </dev/null\n")
	want := kept.Number(got)
	for _, c := range want.Changes(got) {
		t.Errorf("%s %s has the number %d; want %d", c.Kind, c.Name, c.After, c.Before)
	}
	if got.Get(User, "rawboth") == slotOf("rawboth") || got.Get(User, "addboth") != slotOf("addboth") {
		t.Errorf("rawboth %d, addboth %d", got.Get(User, "rawboth"), got.Get(User, "addboth"))
	}
	if got.Get(User, "person") != 1000 {
		t.Errorf("an ordinary user has the number %d; want 1000", got.Get(User, "person"))
	}
}
