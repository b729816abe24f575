package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/sys/unix"

	"ingot"
	"ingot/bootserver/api"
	"ingot/image"
	"ingot/internal/wire"
)

// site is the program in a network with a relay and a host behind it:
//
//	server 10.99.0.1 ── victim          (switch near)
//	   └── router 10.99.0.2, 10.7.0.1 ── far 10.7.0.100   (switch away)
type site struct {
	t      *testing.T
	store  string
	config string
	image  ingot.Digest
	log    lines
}

const (
	victimMAC = "52:54:00:aa:00:03"

	siteConfig = `dhcp:
  interfaces: [{name: eth1, mode: full, probe: 10ms}]
  networks:
    - name: lab
      interface: eth1
      subnets: [{prefix: 10.99.0.0/24, pools: [10.99.0.100-10.99.0.199]}]
    - name: far
      relays: [10.99.0.2]
      subnets: [{prefix: 10.7.0.0/24, pools: [10.7.0.150-10.7.0.199], routers: [10.7.0.1]}]
boots:
  rules: [{subnet: 10.7.0.0/24, port: "Eth9/*", approve: true, image: "lab:v1"}]
`
)

// newSite makes networks and store. The test ends with them.
func newSite(t *testing.T) *site {
	t.Helper()
	wire.AddSwitch(t, "near")
	wire.AddSwitch(t, "away")
	wire.Run(t, "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "p-eth1", "netns", "near")
	wire.In(t, "near", "ip", "link", "set", "p-eth1", "master", "near", "up")
	wire.Run(t, "ip", "link", "set", "eth1", "up")
	wire.Run(t, "ip", "address", "add", "10.99.0.1/24", "dev", "eth1")
	wire.Join(t, "near", "victim", "eth0", victimMAC)
	wire.Join(t, "near", "router", "eth0", "52:54:00:12:00:f0")
	wire.Join(t, "away", "router", "eth1", "52:54:00:12:00:f1")
	wire.Join(t, "away", "far", "eth0", "52:54:00:77:00:01")
	for party, commands := range map[string][]string{
		"router": {"address add 10.99.0.2/24 dev eth0", "address add 10.7.0.1/24 dev eth1"},
		"far":    {"address add 10.7.0.100/24 dev eth0", "route add default via 10.7.0.1"},
	} {
		for _, c := range commands {
			wire.In(t, party, append([]string{"ip"}, strings.Fields(c)...)...)
		}
	}
	wire.In(t, "router", "sysctl", "-qw", "net.ipv4.ip_forward=1")
	wire.Run(t, "ip", "route", "add", "10.7.0.0/24", "via", "10.99.0.2")
	dir := t.TempDir()
	s := &site{t: t, store: filepath.Join(dir, "store"), config: filepath.Join(dir, "ingot.yaml")}
	s.fill()
	return s
}

// fill puts a loader and an image into the store.
func (s *site) fill() {
	s.t.Helper()
	file := func(name string) string {
		path := filepath.Join(s.store, "loaders", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("{}"), 0o644); err != nil {
			s.t.Fatal(err)
		}
		return path
	}
	file("snponly.efi")
	file("lock.json")
	images, err := image.Open(s.t.Context(), s.store)
	if err != nil {
		s.t.Fatal(err)
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(s.store, "keys"))
	if err != nil {
		s.t.Fatal(err)
	}
	im, err := images.Put(s.t.Context(), &ingot.ImageManifest{Schema: 1, Profile: "lab", Version: "v1"}, image.Files{
		Kernel: file("kernel"), Initramfs: file("initramfs"), Root: file("root"), Plan: file("plan")}, keys.Release.Secret)
	if err != nil {
		s.t.Fatal(err)
	}
	s.image = im.Digest
}

// serve runs the program until the test or stop ends it.
func (s *site) serve(config string) (stop func()) {
	s.t.Helper()
	if err := os.WriteFile(s.config, []byte(config), 0o644); err != nil {
		s.t.Fatal(err)
	}
	cmd := asIngot(exec.Command(os.Args[0], "--store", s.store, "serve", "--config", s.config))
	cmd.Stderr = &s.log
	before := len(s.log.String())
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()
	}
	s.t.Cleanup(func() {
		stop()
		if s.t.Failed() {
			s.t.Logf("the server's log:\n%s", s.log.String())
		}
	})
	wire.Eventually(s.t, "the server is ready", func() bool {
		return strings.Contains(s.log.String()[before:], "ingot machine ls")
	})
	return stop
}

func (s *site) api() *api.Client { return api.Dial(filepath.Join(s.store, "ingot.sock")) }

// machine is what the server knows about a card; nil: nothing.
func (s *site) machine(mac string) *api.Machine {
	s.t.Helper()
	all, err := s.api().Machines(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, m := range all {
		for _, c := range m.MACs {
			if c == mac {
				return &m
			}
		}
	}
	return nil
}

// host is a party that sends packets and requests as it likes.
type host struct {
	t     *testing.T
	party string
	ip    string        // "": it has none yet, and broadcasts
	port  int           // from which it sends DHCP
	to    string        // 10.99.0.1:67, or another port of the server
	wait  time.Duration // for an answer
}

func (s *site) far() host {
	return host{t: s.t, party: "far", ip: "10.7.0.100", port: dhcpv4.ServerPort, to: "10.99.0.1:67",
		wait: time.Second}
}

func (s *site) victim() host {
	return host{t: s.t, party: "victim", port: dhcpv4.ClientPort, to: "255.255.255.255:67",
		wait: 15 * time.Second}
}

// firmware and loader are packets of UEFI firmware and of an iPXE that can run scripts.
func (h host) firmware(mac string, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	h.t.Helper()
	card, err := net.ParseMAC(mac)
	if err != nil {
		h.t.Fatal(err)
	}
	p, err := dhcpv4.NewDiscovery(card, append([]dhcpv4.Modifier{dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003000")),
		dhcpv4.WithOption(dhcpv4.OptClientArch(iana.EFI_X86_64))}, mods...)...)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

func (h host) loader(mac string, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	return h.firmware(mac, append([]dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte("iPXE"))),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(175), []byte{0x13, 1, 1, 0x14, 1, 1}))}, mods...)...)
}

func giaddr(ip string) dhcpv4.Modifier {
	return func(p *dhcpv4.DHCPv4) { p.GatewayIPAddr = net.ParseIP(ip).To4() }
}

func option82(port string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, append([]byte{1, byte(len(port))},
		port...)))
}

// send sends packets one after the other and returns the answer to the last one, nil for none.
func (h host) send(list ...*dhcpv4.DHCPv4) (answer *dhcpv4.DHCPv4) {
	h.t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		e := c.Control(func(fd uintptr) {
			if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err == nil {
				err = unix.BindToDevice(int(fd), "eth0")
			}
		})
		if e != nil {
			return e
		}
		return err
	}}
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(h.to))
	wire.Within(h.t, h.party, func() error {
		conn, err := lc.ListenPacket(h.t.Context(), "udp4", fmt.Sprintf("%s:%d", h.ip, h.port))
		if err != nil {
			return err
		}
		defer conn.Close()
		for _, p := range list {
			answer = nil
			if _, err := conn.WriteTo(p.ToBytes(), to); err != nil {
				return err
			}
			b := make([]byte, 2048)
			for end := time.Now().Add(h.wait); answer == nil && time.Now().Before(end); {
				_ = conn.SetReadDeadline(end)
				n, _, err := conn.ReadFrom(b)
				if err != nil {
					break
				}
				if a, err := dhcpv4.FromBytes(b[:n]); err == nil && a.OpCode == dhcpv4.OpcodeBootReply &&
					a.TransactionID == p.TransactionID {
					answer = a
				}
			}
		}
		return nil
	})
	return answer
}

// request is an HTTP request; body nil is GET. It returns the status and the body.
func (h host) request(url string, body any) (status int, text string) {
	h.t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, at string) (c net.Conn, err error) {
			wire.Within(h.t, h.party, func() error {
				c, err = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(h.ip)}}).DialContext(ctx, network, at)
				return nil // the client returns it
			})
			return c, err
		}}}
	r, err := client.Get(url)
	if body != nil {
		b, e := json.Marshal(body)
		if e != nil {
			h.t.Fatal(e)
		}
		r, err = client.Post(url, "application/json", bytes.NewReader(b))
	}
	if err != nil {
		h.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// boot takes a lease as firmware and loader do, and returns the address of the machine with it,
// and the URL of its boot.
func (h host) boot(mac string) (host, string) {
	h.t.Helper()
	var ack *dhcpv4.DHCPv4
	for _, packet := range []func(string, ...dhcpv4.Modifier) *dhcpv4.DHCPv4{h.firmware, h.loader} {
		offer := h.send(packet(mac))
		if offer == nil {
			h.t.Fatal("the machine gets no offer")
		}
		q := packet(mac, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier())),
			dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr)))
		if ack = h.send(q); ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
			h.t.Fatalf("the machine's request gets %v", ack)
		}
	}
	with := h
	with.ip = ack.YourIPAddr.String()
	wire.In(h.t, h.party, "ip", "address", "replace", with.ip+"/24", "dev", "eth0")
	url, ok := strings.CutSuffix(ack.BootFileNameOption(), "/script")
	if !ok {
		h.t.Fatalf("the loader gets %q", ack.BootFileNameOption())
	}
	return with, url
}

// approve lets the victim boot.
func (s *site) approve() {
	s.t.Helper()
	if _, err := s.api().Approve(s.t.Context(), victimMAC, api.ApproveRequest{Name: "victim",
		Image: "lab:v1"}); err != nil {
		s.t.Fatal(err)
	}
}

// latest is the state of the victim's latest boot.
func (s *site) latest() api.Boot {
	s.t.Helper()
	boots, err := s.api().Boots(s.t.Context(), "victim", 0)
	if err != nil || len(boots) == 0 {
		s.t.Fatalf("boots = %v, %v", boots, err)
	}
	return boots[0]
}

// TestAttackFromAnotherNetwork: a host that the server can route to, and that knows the MAC
// address of a machine, gets neither the machine's boot nor its key, cannot end its boot,
// and cannot say where a machine is plugged in.
func TestAttackFromAnotherNetwork(t *testing.T) {
	if !wire.On(t) {
		return
	}
	s := newSite(t)
	s.serve(siteConfig)
	s.victim().boot(victimMAC)
	s.approve()
	before := s.latest()
	far := s.far()
	client := far
	client.port = dhcpv4.ClientPort
	own := dhcpv4.WithClientIP(net.ParseIP(far.ip).To4())
	for _, a := range []struct {
		what string
		from host
		mods []dhcpv4.Modifier
	}{
		{"its own address as relay", far, []dhcpv4.Modifier{giaddr(far.ip)}},
		{"its own address as relay, which selects the victim's network", far, []dhcpv4.Modifier{giaddr(far.ip),
			dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, []byte{5, 4, 10, 99, 0, 0}))}},
		{"the real relay's address as relay", far, []dhcpv4.Modifier{giaddr("10.7.0.1")}},
		{"no relay, and its own address as client", client, []dhcpv4.Modifier{own}},
		{"no relay, informing", client, []dhcpv4.Modifier{own, dhcpv4.WithMessageType(dhcpv4.MessageTypeInform)}},
		{"no relay, renewing", client, []dhcpv4.Modifier{own, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest)}},
	} {
		answer := a.from.send(a.from.firmware(victimMAC, a.mods...), a.from.loader(victimMAC, a.mods...))
		if answer != nil && (answer.BootFileNameOption() != "" || answer.YourIPAddr.To4() != nil &&
			!answer.YourIPAddr.IsUnspecified()) {
			t.Errorf("%s: the attacker gets %q and %s", a.what, answer.BootFileNameOption(), answer.YourIPAddr)
		}
	}
	if now := s.latest(); now.ID != before.ID || now.Outcome != ingot.OutcomeOpen {
		t.Errorf("after the attacks, the victim's boot is %s, %q; want %s as it was", now.ID.Short(), now.Outcome,
			before.ID.Short())
	}
	stranger := "52:54:00:af:00:01"
	far.send(far.firmware(stranger, giaddr(far.ip), option82("Eth9/1")),
		far.loader(stranger, giaddr("10.7.0.1"), option82("Eth9/1")))
	near := s.victim()
	near.ip = ""
	near.send(near.firmware("52:54:00:af:00:02", option82("Eth9/1")))
	for _, mac := range []string{stranger, "52:54:00:af:00:02"} {
		if m := s.machine(mac); m != nil && (m.State != api.Pending || m.Port.Relay.IsValid()) {
			t.Errorf("a forged option 82 makes %s %s, at port %s", mac, m.State, m.Port)
		}
	}
	n, err := s.api().Network(t.Context())
	if err != nil || len(n.Refused) == 0 {
		t.Fatalf("refused relays: %+v, %v", n.Refused, err)
	}
	for _, want := range []string{`add to network "far" of dhcp: relays: [10.99.0.2, 10.7.0.100]`,
		"packets of the relay 10.7.0.1 from 10.7.0.100 are refused"} {
		if !strings.Contains(fmt.Sprint(n.Refused), want) {
			t.Errorf("the refused relays %+v do not say %q", n.Refused, want)
		}
	}
}

// TestAttackWithAKey: the key of a boot works from the address leased to the machine and from
// no other one until the ticket, also after a restart of the server.
func TestAttackWithAKey(t *testing.T) {
	if !wire.On(t) {
		return
	}
	s := newSite(t)
	stop := s.serve(siteConfig)
	victim, url := s.victim().boot(victimMAC)
	s.approve()
	far, near := s.far(), victim
	near.ip = "10.99.0.77" // another host of the victim's network, whose machine has no lease of the server
	wire.In(t, "victim", "ip", "address", "add", near.ip+"/24", "dev", "eth0")
	if status, text := victim.request(url+"/script", nil); status != 200 || !strings.Contains(text, "initramfs") {
		t.Fatalf("the machine's script: %d %s", status, text)
	}
	attack := func(when string) {
		t.Helper()
		for _, h := range []host{far, near} {
			for part, body := range map[string]any{"/script": nil, "/" + s.image.Hex() + "/kernel": nil,
				"/events": ingot.Event{Stage: ingot.StageInit, Error: "boom"}, "/ticket": ticketRequest(t),
				"/report": ingot.Report{Boot: s.latest().ID, Image: s.image, Root: s.image, Healthy: true}} {
				if status, text := h.request(url+part, body); status != http.StatusForbidden {
					t.Errorf("%s, %s from %s gets %d: %s", when, part, h.ip, status, text)
				}
			}
		}
		if b := s.latest(); b.Outcome != ingot.OutcomeOpen || !b.Ticket.IsZero() {
			t.Errorf("%s, the boot is %q with the ticket of %s", when, b.Outcome, b.Ticket)
		}
	}
	attack("while the machine loads")
	stop()
	s.serve(siteConfig)
	attack("after a restart of the server")
	if status, text := victim.request(url+"/"+s.image.Hex()+"/kernel", nil); status != 200 {
		t.Errorf("the machine's kernel: %d %s", status, text)
	}
	if status, text := victim.request(url+"/ticket", ticketRequest(t)); status != 200 {
		t.Errorf("the machine's ticket: %d %s", status, text)
	}
	n, err := s.api().Network(t.Context())
	if err != nil || !strings.Contains(fmt.Sprint(n.Warnings), "a request with the boot key of machine m-525400aa0003") {
		t.Errorf("warnings %+v, %v; want one about the key", n.Warnings, err)
	}
}

// TestAttackBesideAnotherServer: where another server leases the addresses, the key works from
// those that the machine took there, or else from the first one of its network.
func TestAttackBesideAnotherServer(t *testing.T) {
	if !wire.On(t) {
		return
	}
	s := newSite(t)
	const config = "dhcp:\n  interfaces: [{name: eth1, mode: proxy}]\n"
	stop := s.serve(config)
	pc := s.victim()
	boot := func() string {
		t.Helper()
		pc.send(pc.firmware(victimMAC))
		a := pc.send(pc.loader(victimMAC))
		if a == nil {
			t.Fatal("the machine gets no offer")
		}
		return strings.TrimSuffix(a.BootFileNameOption(), "/script")
	}
	from := func(ip string) host {
		h := pc
		h.ip = ip
		wire.In(t, "victim", "ip", "address", "replace", ip+"/24", "dev", "eth0")
		return h
	}
	status := func(h host, url string) int {
		status, _ := h.request(url+"/script", nil)
		return status
	}
	url := boot()
	if got := status(s.far(), url); got != 403 {
		t.Errorf("from another network, before the machine used its key: %d; want 403", got)
	}
	if got := status(from("10.99.0.50"), url); got != 200 {
		t.Errorf("from the first address: %d; want 200", got)
	}
	for _, when := range []string{"", " after a restart"} {
		if got := status(from("10.99.0.51"), url); got != 403 {
			t.Errorf("from a second address%s: %d; want 403", when, got)
		}
		if when == "" {
			stop()
			stop = s.serve(config)
		}
	}
	if got := status(from("10.99.0.50"), url); got != 200 {
		t.Errorf("from the first address after a restart: %d; want 200", got)
	}
	// The initramfs gets another address of the other server than the loader did.
	q := pc.firmware(victimMAC, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 99, 0, 9))),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 99, 0, 52))))
	q.DeleteOption(dhcpv4.OptionClassIdentifier)
	q.DeleteOption(dhcpv4.OptionClientSystemArchitectureType)
	quiet := pc
	quiet.wait = time.Second // only the other server would answer
	quiet.send(q)
	if got := status(from("10.99.0.52"), url); got != 200 {
		t.Errorf("from an address that the machine took from the other server: %d; want 200", got)
	}
	// Firmware asks the boot server at port 4011 from its own address: nobody does from elsewhere.
	far := s.far()
	far.to, far.port = "10.99.0.1:4011", dhcpv4.ClientPort
	if a := far.send(far.loader(victimMAC, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
		dhcpv4.WithClientIP(net.ParseIP(far.ip).To4()))); a != nil {
		t.Errorf("port 4011 gives a host of another network %q", a.BootFileNameOption())
	}
	stop()
	s.serve("dhcp:\n  interfaces: [{name: eth1, mode: proxy}]\n  networks: [{name: lab, interface: eth1, nat: true, " +
		"subnets: [{prefix: 10.99.0.0/24}]}]\n")
	url = boot()
	if got := status(s.far(), url); got != 200 {
		t.Errorf("from another address with nat: true: %d; want 200", got)
	}
}

func ticketRequest(t *testing.T) ingot.TicketRequest {
	t.Helper()
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return ingot.TicketRequest{Nonce: hex.EncodeToString(b), Facts: ingot.Facts{Vendor: "x"}}
}
