package secrets

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ingot/builder/tree"
)

func put(t *testing.T, tr *tree.Tree, p string, mode uint32, content string) {
	t.Helper()
	if err := tr.PutFile(p, mode, []byte(content)); err != nil {
		t.Fatal(err)
	}
}

// keys returns a private key as PEM and as DER.
func keys(t *testing.T) (text, der string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})), string(b)
}

// source is the same in each run: a few of all random words look like words that were chosen.
var source = rand.NewChaCha8([32]byte{13})

// noise returns n random bytes.
func noise(t *testing.T, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := source.Read(b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestFind: secrets are found by what they are, and nothing that a system has anyway is one.
func TestFind(t *testing.T) {
	text, der := keys(t)
	token := base64.StdEncoding.EncodeToString([]byte(noise(t, 32)))
	secret := map[string]string{
		"etc/app/tls.pem": text, "opt/x/bundle": "some text\n" + text, "etc/app/key.der": der,
		"etc/app/legacy.pem": strings.ReplaceAll(text, "PRIVATE KEY", "RSA PRIVATE KEY"),
		"etc/app/enc.pem":    strings.ReplaceAll(text, "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"),
		"etc/dropbear/k":     "\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x40" + noise(t, 64),
		"etc/wg0.conf":       "[Interface]\nPrivateKey = " + base64.StdEncoding.EncodeToString([]byte(noise(t, 32))) + "\n",
		"etc/bind/x.key":     "key \"rndc-key\" {\n\talgorithm hmac-sha256;\n\tsecret \"" + token + "\";\n};\n",
		"etc/app/random":     noise(t, 128), "var/lib/x/.cookie": "QWERTZUIOPASDFGHJKLY",
		"etc/x.token": token + "\n", "etc/x.keytab": "\x05\x02" + noise(t, 40),
		"etc/app/id": token + "\n", "etc/app/hexadecimal": hex.EncodeToString([]byte(noise(t, 32))),
		"etc/app/token": hex.EncodeToString([]byte(noise(t, 16))), "etc/app/few": noise(t, 24),
	}
	public := map[string]string{
		"etc/app/public.pem": "-----BEGIN CERTIFICATE-----\n" + token + token + "\n-----END CERTIFICATE-----\n",
		"etc/doc":            "write -----BEGIN PRIVATE KEY----- before it",
		"usr/bin/tool":       "-----BEGIN PRIVATE KEY-----\x00",
		"etc/config.key":     "host = example\nport = 22\n", "etc/empty.key": "",
		"etc/shadow":  "root:$y$j9T$" + token + ":1::::::\n",
		"etc/sudoers": "root ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n", "etc/machine": "node-17\n",
		"etc/app/link": "/etc/ssl/private/key.pem\n", "etc/app/todo": "PLEASE_CHANGE_ME\n",
		"etc/app/host": "node17.rack4.example.com\n", "etc/app/count": "12345678901234567890123456789012\n",
		"etc/ssl/shipped.pem": text, "etc/shipped.conf": text, "etc/allowed.pem": text, "var/lib/dpkg/info/x.preinst": text,
		"usr/lib/python3/dist-packages/app/__pycache__/test_tls.cpython-313.pyc": text,
		"etc/zeros": strings.Repeat("\x00", 600),
	}
	tr := tree.New()
	for p, content := range secret {
		put(t, tr, p, 0o600, content)
	}
	for p, content := range public {
		put(t, tr, p, 0o600, content)
	}
	put(t, tr, "etc/world", 0o644, noise(t, 128))
	put(t, tr, "etc/changed.conf", 0o600, text)
	put(t, tr, "var/lib/dpkg/info/app.list", 0o644, "/etc/ssl/shipped.pem\n/etc/shipped.conf\n/etc/changed.conf\n")
	put(t, tr, "var/lib/dpkg/status", 0o644, "Package: app\nStatus: install ok installed\nVersion: 1\nConffiles:\n "+
		"/etc/shipped.conf "+md5Of([]byte(text))+"\n /etc/changed.conf "+md5Of([]byte("other"))+"\n")
	found, err := Find(tr, func(p string) bool { return p == "/etc/allowed.pem" })
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found {
		got = append(got, f.Path)
	}
	want := []string{"/etc/changed.conf"} // a configuration file that a script changed
	for p := range secret {
		want = append(want, "/"+p)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("Find = %v\nwant   %v", found, want)
	}
}

// madeTree is a root after the scripts of known packages.
func madeTree(t *testing.T) *tree.Tree {
	t.Helper()
	text, _ := keys(t)
	tr := tree.New()
	for p, content := range map[string]string{
		"etc/iscsi/initiatorname.iscsi": "InitiatorName=iqn.1993-08.org.debian:01:abc\n",
		"etc/munge/munge.key":           noise(t, 128),
		"etc/bind/rndc.key":             "key x", "etc/ssl/private/ssl-cert-snakeoil.key": text,
		"etc/dropbear/dropbear_rsa_host_key":  "\x00\x00\x00\x07ssh-rsa" + noise(t, 64),
		"etc/ssl/certs/ssl-cert-snakeoil.pem": "cert", "etc/ssl/certs/other.pem": "cert",
		"var/lib/rabbitmq/.erlang.cookie": "ABCDEFGHIJKLMNOPQRST", "var/lib/dkms/mok.key": text,
		"var/lib/postgresql/17/main/PG_VERSION": "17", "var/lib/postgresql/17/main/base/1/2": noise(t, 64),
		"etc/libvirt/qemu/networks/default.xml": "<network>\n  <name>default</name>\n  <uuid>" + "1-2</uuid>\n" +
			"  <mac address='52:54:00:1:2:3'/>\n  <ip address='192.168.122.1'/>\n</network>\n",
	} {
		put(t, tr, p, 0o600, content)
	}
	if err := errors.Join(tr.PutLink("etc/ssl/certs/0a1b2c3d.0", "ssl-cert-snakeoil.pem"),
		tr.PutLink("etc/ssl/certs/00000000.0", "other.pem"),
		tr.Put(tree.Entry{Path: "var/lib/postgresql/17/main", Kind: tree.Dir, Mode: 0o700, UID: 104})); err != nil {
		t.Fatal(err)
	}
	return tr
}

// TestRemove: two roots whose scripts made other secrets become the same, and units make them anew.
func TestRemove(t *testing.T) {
	a, b := madeTree(t), madeTree(t)
	if d, err := Differences(a, b); err != nil || len(d) < 4 || slices.Contains(d, "/etc/bind/rndc.key") {
		t.Fatalf("Differences = %v, %v; want the random files", d, err)
	}
	o := Options{Identity: "/data"}
	removed, err := Remove(a, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Remove(b, o); err != nil {
		t.Fatal(err)
	}
	if d, err := Differences(a, b); err != nil || len(d) > 0 {
		t.Errorf("after Remove, %v differ (%v)", d, err)
	}
	if found, err := Find(a, func(string) bool { return false }); err != nil || len(found) > 0 {
		t.Errorf("after Remove, Find = %v, %v", found, err)
	}
	for _, p := range []string{"etc/munge/munge.key", "etc/ssl/certs/0a1b2c3d.0", "var/lib/postgresql/17/main/PG_VERSION",
		"var/lib/rabbitmq/.erlang.cookie"} {
		if a.Get(p) != nil {
			t.Errorf("/%s is still there", p)
		}
	}
	if e := a.Get("var/lib/postgresql/17/main"); e == nil || e.UID != 104 || e.Mode != 0o700 {
		t.Errorf("the folder of the cluster = %+v; want it as it was", e)
	}
	if a.Get("etc/ssl/certs/00000000.0") == nil {
		t.Error("a link to another certificate is gone")
	}
	if text, _ := a.ReadFile("etc/libvirt/qemu/networks/default.xml"); strings.Contains(string(text), "uuid") ||
		!strings.Contains(string(text), "<name>default</name>\n  <ip address") {
		t.Errorf("the default network = %s", text)
	}
	if !Cleans("/etc/libvirt/qemu/networks/default.xml") || Cleans("/etc/munge/munge.key") {
		t.Error("Cleans is wrong")
	}
	early, err := a.ReadFile("usr/lib/systemd/system/ingot-secret-iscsi-initiator.service")
	if err != nil || !strings.Contains(string(early), "\nBefore=iscsid.service open-iscsi.service sysinit.target ") {
		t.Errorf("the unit of the iSCSI name = %s, %v; want it before iscsid, which waits for no sysinit.target", early, err)
	}
	for _, r := range removed {
		unit := a.Get("usr/lib/systemd/system/ingot-secret-" + r.Name + ".service")
		if (unit != nil) != (r.Make != "") || (r.Fate == Boot || r.Fate == Kept) != (r.Make != "") {
			t.Errorf("%s: unit %v, fate %q; want a unit for what is made on the machine", r.Name, unit, r.Fate)
		}
	}
	if lines := Lines(removed); !strings.HasPrefix(lines[0], "/etc/munge/munge.key: ") {
		t.Errorf("the first line is %q; want what the operator must supply", lines[0])
	}
	folder := Removed{Known{Fate: Operator}, []string{"/var/lib/postgresql/17/main"}}
	if got := folder.Lacks(a); got != "/var/lib/postgresql/17/main" || folder.Lacks(madeTree(t)) != "" ||
		(Removed{Known{Fate: Boot}, folder.Found}).Lacks(a) != "" {
		t.Errorf("Lacks = %q; want the empty folder, of what the operator supplies", got)
	}
	allowed := madeTree(t)
	munge := func(p string) bool { return p == "/etc/munge/munge.key" }
	if _, err := Remove(allowed, Options{Allowed: munge}); err != nil ||
		allowed.Get("etc/munge/munge.key") == nil {
		t.Errorf("an allowed key is removed (%v)", err)
	}
}

// TestScripts runs a script that keeps its secret on the identity volume: made once, the same at
// the next boot, which has a new root.
func TestScripts(t *testing.T) {
	for _, k := range table {
		if k.Make == "" {
			continue
		}
		cmd := exec.Command("dash", "-n")
		cmd.Stdin = strings.NewReader(k.script("/data"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", k.Name, err, out)
		}
	}
	dir := t.TempDir()
	volume, root := filepath.Join(dir, "volume"), filepath.Join(dir, "root")
	file := filepath.Join(root, "etc/key")
	k := Known{Name: "test", What: "test", Fate: Kept, Paths: []string{strings.TrimPrefix(file, "/")},
		Make: "head -c 32 /dev/urandom | base64 >" + file + "\n"}
	boot := func() string {
		t.Helper()
		run(t, "rm", "-rf", root)
		run(t, "mkdir", "-p", filepath.Dir(file))
		run(t, "sh", "-c", k.script(volume))
		return run(t, "cat", file)
	}
	if boot() == boot() {
		t.Error("without a volume, two boots have the same key")
	}
	run(t, "mkdir", "-p", filepath.Join(volume, ".ingot/identity"))
	first := boot()
	if first == "" || boot() != first {
		t.Error("the key on the volume is not used again")
	}
	run(t, "rm", "-rf", root)
	run(t, "mkdir", "-p", "-m", "0711", filepath.Dir(file)) // another image
	run(t, "sh", "-c", k.script(volume))
	if got := run(t, "stat", "-c", "%a", filepath.Dir(file)) + run(t, "cat", file); got != "711\n"+first {
		t.Errorf("the mode of the folder and the key are %q; want 711, that of the new image, and the key", got)
	}
	run(t, "sh", "-c", "echo supplied >"+file+" && rm -rf "+volume+"/.ingot/identity/test")
	run(t, "sh", "-c", k.script(volume))
	if got := run(t, "cat", file); got != "supplied\n" {
		t.Errorf("a key that was supplied became %q", got)
	}
}

// TestDigest: what Remove adds to a root, or removes, is in the digest that plans pin.
func TestDigest(t *testing.T) {
	old, before := table, Digest()
	defer func() { table = old }()
	for name, change := range map[string]func(*Known){
		"script": func(k *Known) { k.Make += "true\n" }, "unit": func(k *Known) { k.Units = []string{"a.service"} },
		"paths": func(k *Known) { k.Paths = k.Paths[:0] }, "fate": func(k *Known) { k.Fate = Boot },
		"what is empty": func(k *Known) { k.Empty = true },
	} {
		table = slices.Clone(old)
		if change(&table[0]); Digest() == before {
			t.Errorf("another %s has the same digest", name)
		}
	}
	if table = old; Digest() != before {
		t.Error("the same table has another digest")
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}
