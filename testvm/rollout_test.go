//go:build e2e

package testvm

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/testvm/storm"
)

// fakes are the simulated machines of the scene, beside its three virtual ones.
const fakes = 200

// crowded is a server with room for them, and with pages.
const crowded = `dhcp:
  interfaces: [{name: br0, mode: full}]
  networks:
    - name: crowd
      interface: br0
      subnets: [{prefix: 10.99.0.0/16, pools: [10.99.16.0-10.99.31.255]}]
api: {listen: ["10.99.0.1:7443"]}
boots: {approveAll: true, image: "lab:v1"}
`

// TestSceneRolloutHalts: an image whose health check fails reaches one of three virtual machines among 200 simulated
// ones, which is ordered to reboot and falls back. The rollout halts, page and commands say why in one sentence, and an
// abort leaves everybody the good image. Then an image that fails on the machines with one model of disk goes to all,
// while the server is killed: it halts, names the model, and all boot the good image again. At last an image goes to
// all machines but the virtual ones, which are pinned: kills of the server do not disturb what runs.
func TestSceneRolloutHalts(t *testing.T) {
	requireAll(t)
	s := newStageOn(t, 30*time.Minute, netip.MustParsePrefix("10.99.0.1/16"))
	s.run("build", s.file("check.yaml", "name: lab\nextends: lab\n"+
		"checks: [{name: broken, command: [/bin/false], within: 2s}]\n"), "--version", "check")
	s.router()
	config := s.file("ingot.yaml", crowded)
	s.serve("--config", config)
	s.crowd("lab:v2")
	vms := []*VM{s.vm(BIOS, 90), s.vm(UEFI, 91), s.vm(BIOS, 92)}
	for i, vm := range vms {
		s.healthy(vm, 1, "lab:v1")
		s.run("machine", "rename", vm.id(), vmNames[i]) // the first names are moved first
	}
	s.until("all machines to be healthy", func() bool { return s.count("lab:v1") == fakes+len(vms) })
	token := s.run("token", "create", "wall", "--scope", "read")

	t.Log(s.run("rollout", "start", "lab:check", "--to", "all", "--bake", "5s", "--max-unavailable", "10"))
	r := s.rolloutIs("r1", "halted")
	const why = "a1 failed with lab:check until it was given up: stage healthy: check broken failed: /bin/false: " +
		"exit status 1"
	if r.Stop.Text != "halted in the canary: "+why {
		t.Errorf("it halted for %q; want %q", r.Stop.Text, why)
	}
	s.says("rollout show r1", s.run("rollout", "show", "r1"), why)
	s.says("rollout ls", s.run("rollout", "ls"), why)
	s.says("events", s.run("events"), why)
	s.says("why", s.run("why", "a1"), "Check broken failed", why)
	s.says("the page", s.page(token, "/rollouts/r1"), why)
	s.says("the page Fleet", s.page(token, "/"), why)
	if got := s.moved("r1"); !slices.Equal(got, []string{"a1"}) {
		t.Errorf("moved are %q; want the canary only", got)
	}
	s.healthy(vms[0], 4, "lab:v1") // two attempts, and the fall-back
	s.says("why", s.run("why", "a1"), "fell back to lab:v1")
	s.run("rollout", "abort", "r1")
	s.rolloutIs("r1", "back")
	if n := s.count("lab:v1"); n != fakes+len(vms) {
		t.Errorf("after the abort %d machines are assigned and run lab:v1; want all", n)
	}

	s.run("rollout", "start", "lab:v2", "--to", "all", "--bake", "5s", "--max-unavailable", "10")
	s.rolloutIs("r2", "wave")
	s.killServer()
	s.serve("--config", config)
	r = s.rolloutIs("r2", "halted")
	t.Log(s.run("rollout", "show", "r2"))
	ill := r.Stop.Evidence[0].Name
	if m := haltRE.FindStringSubmatch(r.Stop.Text); m == nil || !strings.Contains(m[1], ill) {
		t.Errorf("it halted for %q; want boots that failed and machines, with %s", r.Stop.Text, ill)
	}
	s.says("rollout show r2", s.run("rollout", "show", "r2"), r.Stop.Text, "disk worn:", ill)
	s.says("rollout ls", s.run("rollout", "ls"), r.Stop.Text)
	s.says("events", s.run("events"), r.Stop.Text)
	s.says("why", s.run("why", ill), "failed", r.Stop.Text)
	s.says("the page", s.page(token, "/rollouts/r2"), r.Stop.Text, "worn", ill)
	if n := len(s.moved("r2")); n > 31 { // of images that fail on 30 % of the machines, 95 of 100 stop by then
		t.Errorf("%d machines were moved until it halted", n)
	}
	s.run("rollout", "abort", "r2")
	s.rolloutIs("r2", "back")
	for _, m := range s.machines() {
		if m.Assignment.Name != "lab:v1" {
			t.Errorf("after the abort %s is assigned %s", m.Hostname(), m.Assignment.Name)
		}
	}
	t.Log(s.run("rollout", "history", "r2"))
	before := s.numbers()
	for _, m := range s.machines() {
		if _, err := s.api.Reboot(s.ctx, string(m.ID), api.RebootRequest{Why: "back to the good image"}); err != nil {
			t.Fatalf("ordering %s to reboot: %v", m.Hostname(), err)
		}
	}
	s.until("all machines to run lab:v1 again", func() bool {
		for i, n := range s.numbers() {
			if n <= before[i] {
				return false
			}
		}
		return s.count("lab:v1") == fakes+len(vms)
	})
	s.spared(config)
}

// numbers are those of the latest boots of the virtual machines.
func (s *stage) numbers() (list []int) {
	s.t.Helper()
	for _, name := range vmNames {
		b, err := s.api.Boots(s.ctx, name, 1)
		if err != nil || len(b) != 1 {
			s.t.Fatalf("the latest boot of %s is %+v, %v", name, b, err)
		}
		list = append(list, b[0].Number)
	}
	return list
}

// vmNames are the names of the virtual machines.
var vmNames = []string{"a1", "a2", "a3"}

var haltRE = regexp.MustCompile(`^halted in wave 1: \d+ of \d+ boots of lab:v2 failed, where 1 % is usual; ([^:]*)`)

// spared plays a rollout to the machines that are not pinned, over three kills of the server while it moves them. The
// boots of the pinned ones go on.
func (s *stage) spared(config string) {
	s.t.Helper()
	s.run(append([]string{"machine", "pin", "--why", "a scene"}, vmNames...)...)
	boots := func() (list []ingot.BootID) {
		for _, name := range vmNames {
			b, err := s.api.Boots(s.ctx, name, 1)
			if err != nil || len(b) != 1 || b[0].Outcome != ingot.OutcomeHealthy {
				s.t.Fatalf("the latest boot of %s is %+v, %v", name, b, err)
			}
			list = append(list, b[0].ID)
		}
		return list
	}
	before := boots()
	s.run("rollout", "start", "lab:check", "--to", "all", "--bake", "2s", "--max-unavailable", "25")
	for i := range 3 {
		s.until("the rollout to move more machines", func() bool {
			r, err := s.api.Rollout(s.ctx, "r3")
			return err == nil && r.State == "wave" && len(s.moved("r3")) > 20*i
		})
		s.killServer()
		s.serve("--config", config)
	}
	s.rolloutIs("r3", "done")
	if n := s.count("lab:check"); n != fakes {
		s.t.Errorf("%d machines run lab:check; want %d", n, fakes)
	}
	if after := boots(); !slices.Equal(after, before) {
		s.t.Errorf("the pinned machines run in boots %v; want %v", after, before)
	}
}

// crowd switches the simulated machines on, of which every second one has a disk that the image odd does not work on.
func (s *stage) crowd(odd string) {
	s.t.Helper()
	h, err := s.lan.NewHost(s.ctx, "crowd0", netip.MustParsePrefix("10.99.255.254/16"))
	if err != nil {
		s.t.Fatal(err)
	}
	im, err := s.api.Image(s.ctx, odd)
	if err != nil {
		s.t.Fatal(err)
	}
	conf, err := json.Marshal(storm.FleetConfig{Storm: storm.Config{Machines: fakes, Card: h.Card, Light: true,
		Disk: "worn", Every: 5 * time.Second}, Odd: []ingot.Digest{im.Digest}})
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := h.Command(s.ctx, os.Args[0], string(conf))
	cmd.Env = append(os.Environ(), "INGOT_TEST_IS=fleet")
	cmd.Stderr = s.log
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.lan.Start(cmd); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { in.Close(); _ = cmd.Wait() }) // it is gone with the LAN
	for n := range fakes {
		fmt.Fprintln(in, n)
	}
}

func (s *stage) machines() []api.Machine {
	s.t.Helper()
	list, err := s.api.Machines(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	return list
}

// count counts the machines that are assigned an image and run it, healthy.
func (s *stage) count(image string) (n int) {
	for _, m := range s.machines() {
		if b := m.Latest; b != nil && b.Outcome == ingot.OutcomeHealthy && m.Assignment.Name == image &&
			b.Image == m.Assignment.Image {
			n++
		}
	}
	return n
}

// moved names the machines that a rollout moved.
func (s *stage) moved(id string) (names []string) {
	s.t.Helper()
	list, err := s.api.RolloutMachines(s.ctx, id)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, m := range list {
		if !m.Moved.IsZero() {
			names = append(names, m.Name)
		}
	}
	return names
}

// says checks that a text has some parts.
func (s *stage) says(what, text string, parts ...string) {
	s.t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			s.t.Errorf("%s lacks %q:\n%s", what, p, text)
		}
	}
}

// page returns the text of a page of the dashboard, as who has a token sees it.
func (s *stage) page(token, path string) string {
	s.t.Helper()
	cmd := s.lan.Command(s.ctx, os.Args[0], "https://10.99.0.1:7443", path)
	cmd.Env = append(os.Environ(), "INGOT_TEST_IS=browser")
	cmd.Stdin = strings.NewReader(token)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("page %s: %v\n%s", path, err, out)
	}
	return string(out)
}

var tagRE = regexp.MustCompile(`<[^>]*>`)

// readPage logs in with the token on in, which commands print as the last word, and prints the text of a page.
func readPage(base, path string, in io.Reader, out io.Writer) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	token := regexp.MustCompile(`ingot_\S+`).FindString(string(text))
	c := &http.Client{Jar: jar, Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // the scene is not about certificates
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, base+"/login",
		strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", base)
	for _, ask := range []func() (*http.Response, error){func() (*http.Response, error) { return c.Do(req) },
		func() (*http.Response, error) { return c.Get(base + path) }} {
		resp, err := ask()
		if err != nil {
			return err
		}
		text, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s, %w\n%s", resp.Request.URL, resp.Status, err, text)
		}
	}
	words := html.UnescapeString(tagRE.ReplaceAllString(string(text), " "))
	_, err = fmt.Fprintln(out, strings.Join(strings.Fields(words), " "))
	return err
}
