// Package initrd is the machine's first program: PID 1 of the initramfs. It
// loads drivers, gets an address and a Ticket, fetches and verifies the root,
// mounts it with the machine's volumes, and becomes systemd.
//
// It runs nothing that does not chain to the two public keys in its own
// initramfs: ticket signature, manifest signature, chunk digests. Every
// failure is shown on the console and posted to the server, tried again with
// jitter, and in the end answered by a reboot.
package initrd

import (
	"cmp"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"aead.dev/minisign"
	"golang.org/x/sys/unix"

	"ingot"
	"ingot/rootfs"
)

// Arguments are ingot's arguments on the kernel command line.
type Arguments struct {
	Server string
	Boot   ingot.BootKey
	MAC    string
	Debug  bool
	// Local says where the root is, when no server is asked; RootHash is its.
	Local, RootHash string
}

// ParseArguments reads a kernel command line.
func ParseArguments(cmdline string) (Arguments, error) {
	var a Arguments
	var err error
	for _, f := range words(cmdline) {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case ingot.ArgServer:
			a.Server = strings.TrimRight(value, "/")
		case ingot.ArgBoot:
			if a.Boot, err = ingot.ParseBootKey(value); err != nil {
				return a, fmt.Errorf("parsing %s: %w", key, err)
			}
		case ingot.ArgMAC:
			if a.MAC, err = ingot.ParseMAC(value); err != nil {
				return a, fmt.Errorf("parsing %s: %w", key, err)
			}
		case ingot.ArgDebug:
			a.Debug = true
		case ingot.ArgLocal:
			a.Local = value
		case ingot.ArgRootHash:
			a.RootHash = value
		}
	}
	if a.Local != "" {
		if a.RootHash == "" {
			return a, fmt.Errorf(
				"the kernel command line has %s but no %s; was it changed in the firmware?",
				ingot.ArgLocal,
				ingot.ArgRootHash,
			)
		}
		return a, nil
	}
	if a.lost() {
		return a, nil
	}
	for key, value := range map[string]string{ingot.ArgServer: a.Server, ingot.ArgBoot: string(a.Boot),
		ingot.ArgMAC: a.MAC} {
		if value == "" {
			return a, fmt.Errorf("the kernel command line has no %s; was this kernel started by ingot's script?", key)
		}
	}
	return a, nil
}

// lost reports whether the arguments do not name this boot, as those of a
// UKI that firmware started do: then the network is asked.
func (a Arguments) lost() bool {
	return a.RootHash != "" && a.Local == "" && a.Server == "" && a.Boot == "" && a.MAC == ""
}

// boot is one run of PID 1.
type boot struct {
	args    Arguments
	cmdline string
	console *console
	remote  *remote
	release minisign.PublicKey
	server  minisign.PublicKey
	// of the release key, as the ticket brought them: each is verified before it is used
	successors []ingot.Successor
	facts      ingot.Facts
	mods       *modules
	stage      ingot.Stage  // under way
	ticket     ingot.Ticket // of a local boot
	life       *life
	half       *ecdh.PrivateKey // of the boot's secret, the same in every request for a ticket
	secret     ingot.BootSecret // nil: messages are not authenticated
	flush      func()           // passes the kernel's log on
	seen       atomic.Uint64    // sequence number in the kernel's log of what the server does not have

	fetched ingot.Digest // image whose root lies in memory
	image   *ingot.ImageManifest
	device  string // loop device of that root

	shell   bool          // the ticket permits a shell
	checked time.Duration // how long checks of filesystems took, which does not count
	volumes ingot.Event   // of the stage: what became of the volumes
}

// tries is how often the way from ticket to switch is gone before a reboot.
const tries = 3

// Run is PID 1. It does not return: it becomes the root's init, or reboots.
func Run(ctx context.Context) {
	b := &boot{stage: ingot.StageInit}
	defer func() {
		if r := recover(); r != nil { // a panic of PID 1 would be a panic of the kernel, without a message
			b.giveUp(ctx, rootfs.WithCode(ingot.FailureInit, fmt.Errorf("ingot-init panicked: %v", r)))
		}
	}()
	if err := b.start(ctx); err != nil {
		b.giveUp(ctx, err)
		return
	}
	way := b.try
	if b.args.Local != "" {
		way = b.tryLocal
	}
	var err error
	for try := 1; try <= tries; try++ {
		if err = way(ctx); b.offersShell() {
			b.shellAfter(ctx, err)
		} else if lasting(err) {
			break
		}
		if ctx.Err() != nil || try == tries {
			break
		}
		pause := 5*time.Second + mrand.N(5*time.Second)
		b.console.frame(fmt.Sprintf("Stage %s failed: %v", b.stage, err),
			fmt.Sprintf("Trying again in %s (%d of %d).", pause.Round(time.Second), try+1, tries))
		e := b.failure(err)
		e.Retry = true
		b.report(ctx, e)
		time.Sleep(pause)
	}
	b.giveUp(ctx, err)
}

// start brings the machine up to where it can talk to the server, or where it
// can look for its own root.
func (b *boot) start(ctx context.Context) error {
	if err := early(); err != nil {
		return err
	}
	_ = os.WriteFile("/proc/sys/kernel/printk", []byte("4\n"), 0) // warnings only, our lines are to be read
	setKernelDefaults()
	b.console = openConsole()
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	b.cmdline = string(cmdline)
	if b.args, err = ParseArguments(b.cmdline); err != nil {
		return err
	}
	b.console.say("boot %s, kernel %s", cmp.Or(b.args.Boot.ID().Short(), "without arguments"), kernelRelease())
	if b.mods, err = openModules(kernelRelease(), b.cmdline); err != nil {
		return err
	}
	for _, name := range []string{"af_packet", "squashfs", "overlay", "loop", "ext4", "efivarfs"} {
		if err := b.mods.byName(name); err != nil {
			return err
		}
	}
	_ = b.mods.byName("efi_pstore") // a crash of this boot is kept from here on; BIOS machines have none
	b.loadDrivers()
	b.watch()
	if b.args.Local != "" {
		return b.startLocal()
	}
	return b.startNetwork(ctx)
}

// startNetwork finds the boot NIC, gets an address and knows the server's keys.
func (b *boot) startNetwork(ctx context.Context) error {
	var err error
	if b.release, err = readKey("release.pub"); err != nil {
		return err
	}
	if b.server, err = readKey("server.pub"); err != nil {
		return err
	}
	if b.args.lost() {
		return b.startLost(ctx)
	}
	link, err := waitForNIC(ctx, b.args.MAC, b.loadDrivers)
	if err != nil {
		return err
	}
	b.console.say("network %s (%s, %s)", link.Attrs().Name, b.args.MAC, driver(link.Attrs().Name))
	waiting := func(err error) { b.console.say("no address yet: %v", err) }
	if over6(b.args.Server) {
		own, err := configure6(ctx, link, waiting)
		if err == nil {
			b.meet(ctx, own.String())
		}
		return err
	}
	ack, err := configure(ctx, link, waiting)
	if err != nil {
		return err
	}
	b.meet(ctx, ack.YourIPAddr.String())
	return nil
}

// startLost is startNetwork for a UKI that firmware started.
func (b *boot) startLost(ctx context.Context) error {
	link, own, args, err := findServer(
		ctx,
		b.loadDrivers,
		func(name string, err error) { b.console.say("no server by %s yet: %v", name, err) },
	)
	if err != nil {
		return err
	}
	b.args.Server, b.args.Boot, b.args.MAC = args.Server, args.Boot, args.MAC
	b.console.say(
		"network %s (%s, %s), boot %s",
		link.Attrs().Name,
		b.args.MAC,
		driver(link.Attrs().Name),
		b.args.Boot.ID().Short(),
	)
	b.meet(ctx, own)
	return nil
}

// meet sends the first event to the server, and what the machine kept of a crash.
func (b *boot) meet(ctx context.Context, own string) {
	b.console.say("address %s, server %s", own, b.args.Server)
	b.remote = newRemote(b.args.Server, b.args.Boot)
	b.facts = facts(b.args.MAC)
	b.report(ctx, ingot.Event{Stage: ingot.StageInit, Detail: own})
	b.flush = b.relay(ctx)
	b.reportCrash(ctx)
}

func readKey(name string) (minisign.PublicKey, error) {
	k, err := minisign.PublicKeyFromFile(filepath.Join(ingot.KeyDir, name))
	if err != nil {
		return k, fmt.Errorf("reading the public key %s of this initramfs: %w", name, err)
	}
	return k, nil
}

// loadDrivers loads modules until no bus shows anything new.
func (b *boot) loadDrivers() {
	failed := func(err error) {
		if b.args.Debug {
			b.console.say("%v", err)
		}
	}
	for range 5 {
		if b.mods.forDevices("/sys/devices", failed) == 0 {
			return
		}
	}
}

// try goes once from ticket to the switch of root; it returns only on failure.
func (b *boot) try(ctx context.Context) error {
	unmountRoot()
	b.stage, b.checked, b.volumes = ingot.StageTicket, 0, ingot.Event{}
	ticket, asked, err := b.getTicket(ctx)
	if err != nil {
		return err
	}
	b.console.say("ticket for %s as %q", ticket.Name, ticket.Hostname)
	b.shell = ticket.Shell
	if ticket.Deadline > 0 {
		b.life.limit(ticket.Deadline - time.Since(asked))
	}
	b.report(ctx, ingot.Event{Stage: ingot.StageTicket, Detail: ticket.Name})
	b.stage = ingot.StageRoot
	if err := b.getRoot(ctx, ticket); err != nil {
		return err
	}
	if err := mountRoot(b.device, b.image.Overlay, b.facts.RAM); err != nil {
		return rootfs.WithCode(ingot.FailureRootMount, err)
	}
	b.report(ctx, ingot.Event{Stage: ingot.StageRoot, Bytes: b.image.Root.Size, Detail: b.image.Root.Digest.Short()})
	b.stage = ingot.StageVolumes
	now := ticket.Issued.Add(time.Since(asked))
	if err := b.furnish(ctx, ticket, now); err != nil {
		return err
	}
	if b.offersShell() {
		b.shellBefore(ctx)
	}
	b.stage = ingot.StageSwitch
	h := rootfs.Handover{
		Key:        b.args.Boot,
		Server:     b.args.Server,
		Ticket:     ticket,
		Image:      *b.image,
		RootDevice: b.device,
		Switched:   rootfs.Uptime(),
		Volumes:    b.volumes.Results,
		Secret:     b.secret,
	}
	if err := h.Write(ingot.RunDir); err != nil {
		return err
	}
	if err := writeBootCard(sysroot, "/", b.args.MAC); err != nil {
		b.console.say("%v", err) // without it the card is as any other
	}
	b.console.say("starting %s", ticket.Name)
	b.report(ctx, ingot.Event{Stage: ingot.StageSwitch})
	b.flush()
	b.leaveGuard(ticket, asked)
	b.life.handOver()
	return rootfs.WithCode(ingot.FailureSwitch, switchRoot("/sbin/init"))
}

// getTicket asks until the server answers, and verifies the answer. asked is
// when the request that was answered left.
func (b *boot) getTicket(ctx context.Context) (t ingot.Ticket, asked time.Time, err error) {
	if b.half == nil {
		if b.half, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return t, asked, fmt.Errorf("drawing a key: %w", err)
		}
	}
	half := ingot.Half(b.half.PublicKey().Bytes())
	var signed ingot.SignedTicket
	defer b.remote.release()
	waiting := func(err error, pause time.Duration) {
		b.remote.release()
		b.waiting(err, pause)
	}
	err = retry(ctx, serverPatience, waiting, func() error {
		b.remote.hold()
		var random [16]byte
		_, _ = rand.Read(random[:]) // never fails, see crypto/rand
		nonce := hex.EncodeToString(random[:])
		asked = time.Now()
		if signed, err = b.remote.ticket(ctx, ingot.TicketRequest{Nonce: nonce, Facts: b.facts, Half: half}); err != nil {
			return fmt.Errorf("asking for a ticket: %w", err)
		}
		b.successors = signed.ReleaseKeys
		t, err = verifyTicket(signed, b.server, b.args.Boot.ID(), nonce, time.Since(asked))
		return err
	})
	if err != nil {
		b.proveRefusal(signed)
		return t, asked, err
	}
	setClock(t.Issued.Add(time.Since(asked)))
	return t, asked, b.agree(t)
}

// agree computes the boot's secret from a verified ticket. From then on messages prove it.
func (b *boot) agree(t ingot.Ticket) error {
	if len(t.ServerHalf) == 0 {
		b.console.say("this server is older than this image and does not authenticate reports")
		return nil
	}
	if !t.MachineHalf.Same(b.half.PublicKey().Bytes()) {
		return fmt.Errorf("%w: it repeats another public half", ErrTicketReplayed)
	}
	secret, err := ingot.NewBootSecret(b.half, t.Boot, t.MachineHalf, t.ServerHalf)
	if err != nil {
		return fmt.Errorf("agreeing on the secret of the boot: the server's part is %w", err)
	}
	b.secret = secret
	b.remote.authenticate(secret, t.Token)
	return nil
}

// proveRefusal lets messages be proven by the secret of a ticket that was refused: the server that issued it
// believes no others any more, and should learn why. Nothing else is believed of such a ticket. If its sender
// is somebody else, it learns what the report says.
func (b *boot) proveRefusal(s ingot.SignedTicket) {
	var t ingot.Ticket
	if b.secret != nil || json.Unmarshal(s.Ticket, &t) != nil || len(t.ServerHalf) == 0 {
		return
	}
	secret, err := ingot.NewBootSecret(b.half, b.args.Boot.ID(), ingot.Half(b.half.PublicKey().Bytes()), t.ServerHalf)
	if err == nil {
		b.remote.authenticate(secret, t.Token)
	}
}

func (b *boot) waiting(err error, pause time.Duration) {
	b.console.say("waiting for the server: %v; again in %s", err, pause.Round(100*time.Millisecond))
}

// setClock corrects a clock that is wrong by more than two minutes, so that
// the logs of a machine with an empty battery can be read. systemd keeps the
// time from there on.
func setClock(now time.Time) {
	if d := time.Since(now).Abs(); d < 2*time.Minute {
		return
	}
	tv := unix.NsecToTimeval(now.UnixNano())
	_ = unix.Settimeofday(&tv) // a wrong clock stops nothing
}

// getRoot fetches and attaches the root of a ticket's image, unless it is there from
// the try before.
func (b *boot) getRoot(ctx context.Context, t ingot.Ticket) error {
	image := t.Image
	if b.fetched == image {
		return nil
	}
	var docs imageDocuments
	err := retry(ctx, serverPatience, b.waiting, func() (err error) {
		docs, err = b.remote.documents(ctx, image)
		return err
	})
	if err != nil {
		return err
	}
	if b.image, err = verifyImage(docs, image, follow(b.release, ingot.KeyRelease, b.successors)...); err != nil {
		return err
	}
	if err := verifyArguments(b.cmdline, b.image, t); err != nil {
		return err
	}
	if err := enoughRAM(b.image, b.facts.RAM); err != nil {
		return err
	}
	file, err := memoryFile(b.image.Root.Size)
	if err != nil {
		return rootfs.WithCode(ingot.FailureRootMount, err)
	}
	defer file.Close() // the loop device holds it
	d := &download{
		chunks:   b.image.Chunks,
		file:     file,
		stall:    30 * time.Second,
		progress: b.console.meter("root", b.image.Root.Size),
		open: func(ctx context.Context, offset int64) (io.ReadCloser, error) {
			return b.remote.root(ctx, image, offset)
		},
	}
	if err := retry(ctx, serverPatience, b.waiting, func() error { return d.run(ctx) }); err != nil {
		return err
	}
	if b.device, err = attachLoop(file); err != nil {
		return rootfs.WithCode(ingot.FailureRootMount, err)
	}
	b.fetched = image
	return nil
}

// enoughRAM compares with an eighth of tolerance: the kernel keeps some of
// what is built in for itself.
func enoughRAM(m *ingot.ImageManifest, ram int64) error {
	if ram < m.MinRAM-m.MinRAM/8 {
		return rootfs.WithCode(
			ingot.FailureMemory,
			fmt.Errorf("the image requires %d MiB of memory; this machine has %d MiB%s", m.MinRAM>>20, ram>>20,
				installedText(rootfs.InstalledMemory())),
		)
	}
	return nil
}

// installedText adds what the firmware says of the modules, so that a broken one is noticed.
func installedText(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; %d MiB are installed, says the firmware", n>>20)
}

// furnish mounts the volumes and gives the root its identity. The root's own
// tools need /dev; it is bound for them and taken away again.
func (b *boot) furnish(ctx context.Context, t ingot.Ticket, now time.Time) error {
	if err := unix.Mount("/dev", sysroot+"/dev", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting /dev in the root: %w", err)
	}
	defer func() { _ = unix.Unmount(sysroot+"/dev", unix.MNT_DETACH) }()
	results, err := b.mountVolumes(ctx, t, now)
	if err != nil {
		return err
	}
	err = giveIdentity(ctx, t, b.image, results, b.args.MAC, ingot.PlausibleSerial(b.facts.Serial))
	return rootfs.WithCode(ingot.FailureIdentity, err)
}

// report posts an event. It tries for a few seconds and then lets the boot go
// on: a server that is away must not stop a machine that needs nothing of it.
func (b *boot) report(ctx context.Context, e ingot.Event) {
	if b.remote == nil {
		return
	}
	e.Uptime = rootfs.Uptime()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	short := patience{First: 300 * time.Millisecond, Most: 2 * time.Second, Total: 8 * time.Second}
	err := retry(ctx, short, func(error, time.Duration) {}, func() error { return b.remote.post(ctx, e) })
	if err != nil && !errors.Is(err, context.Canceled) {
		b.console.say("reporting stage %s to the server failed: %v", e.Stage, err)
	}
}

// volumePause is how long a machine at least waits before it looks for a volume again.
const volumePause = 2 * time.Minute

// failure is the event of a stage that failed.
func (b *boot) failure(err error) ingot.Event {
	e := ingot.Event{Stage: b.stage, Error: err.Error(), Code: codeOf(err)}
	if b.stage == ingot.StageVolumes { // what was written counts, also when another volume is missing
		e.Results, e.Volumes = b.volumes.Results, b.volumes.Volumes
	}
	return e
}

// giveUp shows and posts why, waits so that it can be read, and reboots.
func (b *boot) giveUp(ctx context.Context, err error) {
	if b.console == nil {
		b.console = openConsole()
	}
	pause := 20*time.Second + mrand.N(10*time.Second)
	if rootfs.CodeOf(err) == ingot.FailureVolume { // a person is needed; the next boot fetches everything again
		pause = volumePause + mrand.N(volumePause)
		b.life.hold(pause + time.Minute)
	}
	lines := []string{"This machine could not boot.", fmt.Sprintf("Stage %s: %v", b.stage, err)}
	if b.args.Boot != "" {
		lines = append(lines, fmt.Sprintf("Boot %s, server %s, card %s", b.args.Boot.ID().Short(), b.args.Server, b.args.MAC))
	}
	next := fmt.Sprintf("Rebooting in %s.", pause.Round(time.Second))
	if b.args.Local == "" {
		next += " On the server: ingot boots"
	}
	b.console.frame(append(lines, next)...)
	if err != nil {
		b.report(ctx, b.failure(err))
	}
	if b.flush != nil {
		b.flush()
	}
	time.Sleep(pause)
	b.life.limit(0) // a reboot that hangs is the watchdog's
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {} // PID 1 must not end
}
