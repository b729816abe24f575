package storm

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"ingot"
)

// machine is one boot of one simulated machine.
type machine struct {
	*crowd
	n      int // of the machine
	mac    net.HardwareAddr
	uuid   [16]byte
	ip     net.IP
	server net.IP
	http   *http.Client
	base   string // of its boot: "http://10.99.0.1/b/ID/"
	id     ingot.BootID
	since  time.Time // of the stage that it is in
	left   int       // steps until it vanishes; 0: never
	secret ingot.BootSecret
	token  string
	posted uint64 // messages that proved the secret
	sent   *Sent  // the latest one
	slow   bool
	// of a Fleet: whether the image works on it; nil: it does, and the machine is done when it is healthy
	works func(image ingot.Digest) bool
}

// Steps are the moments in which a machine may vanish: after each OFFER and ACK
// of firmware and loader, in the middle of each of the four downloads and after
// the first, and after script, first event, ticket, root and each later event.
const Steps = 17

// errVanished: the machine was switched off. What it had open stays open.
var errVanished = errors.New("the machine vanished")

// step is called at each of these moments.
func (m *machine) step() error {
	if m.left == 0 {
		return nil
	}
	if m.left--; m.left == 0 {
		return errVanished
	}
	return nil
}

// passed records how long a stage took.
func (m *machine) passed(stage string) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.r.Stages[stage] += now.Sub(m.since) / time.Duration(m.conf.Machines)
	m.since = now
}

func newMachine(c *crowd, n int) *machine {
	m := &machine{crowd: c, n: n, slow: c.conf.Slow && n%3 == 0, mac: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0},
		uuid: [16]byte{0xd1, 0xb2, 0xc3, 0xa4}}
	binary.BigEndian.PutUint32(m.mac[2:], uint32(n)|0x20<<24)
	copy(m.uuid[10:], m.mac)
	return m
}

// at adds the stage to an error.
func at(stage string, err error) error {
	if err == nil {
		return nil
	}
	var op *net.OpError
	if errors.As(err, &op) { // without the addresses, so that failures can be counted
		err = op.Err
	}
	return fmt.Errorf("%s: %w", stage, err)
}

// boot does everything that docs/BOOT.md describes.
func (m *machine) boot(ctx context.Context) error {
	m.since = time.Now()
	ack, err := m.lease(ctx, firmware(m.uuid)...)
	if err != nil {
		return at("dhcp of the firmware", err)
	}
	m.passed("dhcp")
	m.ip, m.server = ack.YourIPAddr, ack.ServerIdentifier()
	if source := m.conf.Source; source.IsValid() {
		m.ip = source.AsSlice()
	} else if err := m.own(m.ip); err != nil {
		return err
	}
	m.http = &http.Client{Transport: &http.Transport{DisableCompression: true,
		DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: m.ip}, Timeout: 30 * time.Second}).DialContext}}
	defer m.http.CloseIdleConnections()
	n, err := m.tftp(ctx, ack.BootFileNameOption())
	if err != nil {
		return at("loader", err)
	}
	m.count(n)
	m.passed("loader")
	if err := m.step(); err != nil {
		return err
	}
	if ack, err = m.lease(ctx, loader(m.uuid)...); err != nil {
		return at("dhcp of the loader", err)
	}
	m.passed("dhcp again")
	script, err := m.text(ctx, ack.BootFileNameOption())
	if err != nil {
		return at("script", err)
	}
	if m.conf.Script {
		m.acknowledged(Acknowledged{MAC: m.mac.String(), Address: leased(m.ip), Script: script})
		m.passed("script")
		return nil
	}
	if err := m.step(); err != nil {
		return err
	}
	for _, what := range []string{"kernel", "initrd"} {
		url := word(script, what)
		if url == "" {
			return fmt.Errorf("the script has no %s: %.100q", what, script)
		}
		if m.conf.Light {
			continue
		}
		if err := m.fetch(ctx, url, io.Discard); err != nil {
			return at(what, err)
		}
	}
	m.passed("script, kernel, initramfs")
	key := ingot.BootKey(word(script, ingot.ArgBoot+"="))
	m.base = word(script, ingot.ArgServer+"=") + ingot.BootPath(key, "")
	m.id = key.ID()
	return m.system(ctx)
}

// word returns what follows a keyword of a script.
func word(script, key string) string {
	if !strings.HasSuffix(key, "=") {
		key = "\n" + key + " "
	}
	_, after, ok := strings.Cut(script, key)
	if !ok {
		return ""
	}
	return strings.Fields(after + " ")[0]
}

// system is what ingot-init and the agent do.
func (m *machine) system(ctx context.Context) error {
	if err := m.sendEvent(ctx, ingot.StageInit); err != nil {
		return err
	}
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return at("ticket", err)
	}
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails, see crypto/rand
	q := ingot.TicketRequest{Nonce: hex.EncodeToString(nonce[:]), Half: own.PublicKey().Bytes(),
		Facts: m.facts()}
	var signed ingot.SignedTicket
	var ticket ingot.Ticket
	if err := m.post(ctx, "ticket", q, &signed); err != nil {
		return at("ticket", err)
	}
	if err := json.Unmarshal(signed.Ticket, &ticket); err != nil || ticket.Nonce != q.Nonce {
		return fmt.Errorf("ticket: it answers another request (%w)", err)
	}
	if m.token = ticket.Token; m.token != "" {
		if m.secret, err = ingot.NewBootSecret(own, m.id, q.Half, ticket.ServerHalf); err != nil {
			return at("ticket", err)
		}
	}
	m.passed("ticket")
	if err := m.step(); err != nil {
		return err
	}
	var config bytes.Buffer
	for part, into := range map[string]io.Writer{"manifest": io.Discard, "signature": io.Discard, "config": &config} {
		if err := m.fetch(ctx, m.base+ticket.Image.Hex()+"/"+part, into); err != nil {
			return at(part, err)
		}
	}
	var manifest ingot.ImageManifest
	if err := json.Unmarshal(config.Bytes(), &manifest); err != nil {
		return at("config", err)
	}
	root, err := m.root(ctx, ticket.Image, manifest.Root.Digest)
	if err != nil {
		return err
	}
	if m.works != nil && !m.works(ticket.Image) {
		failure := ingot.Event{Stage: ingot.StageSwitch, Error: errBroken.Error(), Code: ingot.FailureSwitch}
		return errors.Join(errBroken, m.post(ctx, "events", failure, nil))
	}
	for _, s := range []ingot.Stage{ingot.StageRoot, ingot.StageVolumes, ingot.StageSwitch, ingot.StageAgent} {
		if err := m.sendEvent(ctx, s); err != nil {
			return err
		}
	}
	report := ingot.Report{Boot: m.id, Image: ticket.Image, Root: root, Healthy: true,
		Checks: []ingot.CheckResult{{Name: "system", OK: true}}}
	return m.stay(ctx, report)
}

// root loads the root of an image, and returns its digest.
func (m *machine) root(ctx context.Context, image, want ingot.Digest) (ingot.Digest, error) {
	if m.conf.Light {
		return want, nil
	}
	sum := sha256.New()
	if err := m.fetch(ctx, m.base+image.Hex()+"/root", sum); err != nil {
		return "", at("root", err)
	}
	m.passed("root")
	if err := m.step(); err != nil {
		return "", err
	}
	root := ingot.DigestFromSum([32]byte(sum.Sum(nil)))
	if root != want {
		return "", fmt.Errorf("root: %s arrived, want %s", root.Short(), want.Short())
	}
	return root, nil
}

// facts is the hardware of the machine.
func (m *machine) facts() ingot.Facts {
	disk := ingot.Disk{Name: "nvme0n1", Serial: m.mac.String(), Size: 1 << 40, Holds: "blank", Model: "common"}
	if m.n%2 == 1 && m.conf.Disk != "" {
		disk.Model = m.conf.Disk
	}
	return ingot.Facts{Vendor: "storm", Cores: 64, RAM: 256 << 30, Kernel: "6.12",
		NICs: []ingot.NIC{{Name: "eth0", MAC: m.mac.String(), Boot: true}}, Disks: []ingot.Disk{disk}}
}

// obeys carries out an order to reboot as an agent does, and reports whether the server confirmed it.
func (m *machine) obeys(ctx context.Context, o ingot.Order) bool {
	for _, s := range []ingot.OrderState{ingot.OrderReceived, ingot.OrderRebooting} {
		e := ingot.Event{Stage: ingot.StageAgent, Order: &ingot.OrderStep{Counter: o.Counter, State: s}}
		if m.post(ctx, "events", e, nil) != nil {
			return false
		}
	}
	return true
}

// stay reports as an agent does.
func (m *machine) stay(ctx context.Context, report ingot.Report) error {
	for begin := time.Now(); ; pause(ctx, cmp.Or(m.conf.Every, time.Second)) {
		var order ingot.Order
		err := m.post(ctx, "report", report, &order)
		switch {
		case m.works != nil && err == nil && order.Counter > 0 && m.obeys(ctx, order):
			return nil
		case m.works != nil && ctx.Err() == nil: // an agent never gives up
			continue
		case err != nil:
			return at("report", err)
		}
		m.acknowledged(Acknowledged{MAC: m.mac.String(), Boot: m.id, Stage: ingot.StageHealthy, Report: m.sent,
			Order: order.Counter})
		if time.Since(begin) >= m.conf.Stay {
			break
		}
	}
	m.passed("report")
	return nil
}

// sendEvent reports a stage to the server.
func (m *machine) sendEvent(ctx context.Context, s ingot.Stage) error {
	if err := m.post(ctx, "events", ingot.Event{Stage: s}, nil); err != nil {
		return at("event", err)
	}
	m.acknowledged(Acknowledged{MAC: m.mac.String(), Boot: m.id, Stage: s})
	return m.step()
}

func (m *machine) text(ctx context.Context, url string) (string, error) {
	var b bytes.Buffer
	err := m.fetch(ctx, url, &b)
	return b.String(), err
}

func (m *machine) post(ctx context.Context, part string, v, into any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := m.do(ctx, http.MethodPost, m.base+part, body, &b); err != nil || into == nil || b.Len() == 0 {
		return err
	}
	return json.Unmarshal(b.Bytes(), into)
}

func (m *machine) fetch(ctx context.Context, url string, into io.Writer) error {
	return m.do(ctx, http.MethodGet, url, nil, into)
}

// do sends a request until it is answered. It retries after broken connections and while the server
// is busy, and continues a download where it stopped, as package initrd does.
func (m *machine) do(ctx context.Context, method, url string, body []byte, into io.Writer) error {
	got, tries := int64(0), 0
	for {
		n, after, err := m.once(ctx, method, url, body, got, into)
		got += n
		m.count(n)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errVanished):
			return err
		case after > 0:
			m.busy()
			pause(ctx, after+mrand.N(after/2))
			continue
		}
		if tries++; tries > 6 {
			return err
		}
		pause(ctx, mrand.N(m.conf.Retry/4<<tries))
	}
}

func (m *machine) once(ctx context.Context, method, url string, body []byte, from int64, into io.Writer) (n int64,
	after time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, 0, err
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	if m.secret != nil && method == http.MethodPost {
		m.posted++
		proof := m.secret.Prove(ingot.Message{Method: method, Path: req.URL.Path, Counter: m.posted, Body: body})
		req.Header.Set(ingot.HeaderAuth, proof.String())
		req.Header.Set(ingot.HeaderToken, m.token)
		m.sent = &Sent{url, proof.String(), m.token, body}
	}
	resp, err := m.http.Do(req)
	if err != nil {
		return 0, 0, err
	}
	vanished := false
	defer func() {
		if !vanished {
			resp.Body.Close()
		}
	}()
	if resp.StatusCode >= 300 || from > 0 && resp.StatusCode != http.StatusPartialContent {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return 0, time.Duration(seconds) * time.Second, fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))
	}
	var content io.Reader = resp.Body
	if m.slow {
		content = slowly{ctx, content}
	}
	if resp.ContentLength > large && from == 0 {
		if n, err = io.CopyN(into, content, resp.ContentLength/2); err != nil {
			return n, 0, err
		}
		if err := m.step(); err != nil {
			vanished = true
			return n, 0, err
		}
	}
	more, err := io.Copy(into, content)
	return n + more, 0, err
}

// large is the size in bytes from which a machine may vanish in the middle of a download: kernel,
// initramfs and root.
const large = 16 << 10

// slowly reads a few kilobytes at a time, with pauses.
type slowly struct {
	ctx context.Context // of the request: Read has no argument for it
	r   io.Reader
}

func (s slowly) Read(p []byte) (int, error) {
	pause(s.ctx, 20*time.Millisecond)
	return s.r.Read(p[:min(len(p), 4<<10)])
}

const portTFTP = 69

// tftp fetches a file (RFC 1350, 2347, 2348, 2349) and discards it.
func (m *machine) tftp(ctx context.Context, name string) (int64, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: m.ip})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	to := &net.UDPAddr{IP: m.server, Port: portTFTP}
	packet := append([]byte{0, 1}, name+"\x00octet\x00tsize\x000\x00blksize\x001468\x00"...)
	block, size, got := uint16(0), 512, int64(0)
	buf, send := make([]byte, 2048), true
	for tries := 0; tries < 8; {
		if send {
			if _, err := conn.WriteToUDP(packet, to); err != nil {
				return got, err
			}
		}
		// an earlier packet is not answered twice (RFC 1123 section 4.2.3.1)
		send = false
		_ = conn.SetReadDeadline(time.Now().Add(m.conf.Retry / 2 << min(tries, 3))) // a UDP socket has deadlines
		n, from, err := conn.ReadFromUDP(buf)
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			tries++
			send = true
			continue
		case err != nil:
			return got, err
		case n < 4, to.Port != portTFTP && from.Port != to.Port: // another transfer, of a repeated request
			continue
		}
		to = from // the port of this transfer
		switch number := binary.BigEndian.Uint16(buf[2:]); {
		case buf[1] == 6 && block == 0: // OACK; a late one would restart the transfer
			size, send = 1468, true
			packet = []byte{0, 4, 0, 0}
		case buf[1] == 5:
			return got, fmt.Errorf("%s", bytes.TrimRight(buf[4:n], "\x00"))
		case buf[1] == 3 && number == block+1:
			block, tries, got = number, 0, got+int64(n-4)
			packet, send = []byte{0, 4, buf[2], buf[3]}, true
			if block == 2 {
				if err := m.step(); err != nil {
					return got, err
				}
			}
			if n-4 < size {
				_, err := conn.WriteToUDP(packet, to)
				return got, err
			}
		}
	}
	return got, errors.New("no answer from the server")
}
