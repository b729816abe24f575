package ingot

import "time"

// Stage is one step of a boot. The server observes the first five, the machine
// reports the others.
type Stage string

// The stages of a boot, in the order in which a boot passes them. A boot from the
// UKI of its image passes neither script nor kernel nor initramfs.
const (
	StageDHCP      Stage = "dhcp"      // firmware was offered an address and a loader
	StageLoader    Stage = "loader"    // the loader, or the UKI, was fetched by TFTP or HTTP
	StageScript    Stage = "script"    // the loader fetched its script
	StageKernel    Stage = "kernel"    // the kernel was served
	StageInitramfs Stage = "initramfs" // the initramfs was served
	StageInit      Stage = "init"      // ingot-init runs; its modules are loaded and its NIC is up
	StageTicket    Stage = "ticket"    // facts posted, ticket received and verified
	StageRoot      Stage = "root"      // root fetched and every chunk verified
	StageVolumes   Stage = "volumes"   // data volumes found, checked and mounted
	StageSwitch    Stage = "switch"    // about to switch root into systemd
	StageAgent     Stage = "agent"     // the agent runs in the booted system
	StageHealthy   Stage = "healthy"   // every health check passed and the measured root is the assigned one
)

// Stages lists every stage in order.
var Stages = []Stage{StageDHCP, StageLoader, StageScript, StageKernel, StageInitramfs, StageInit,
	StageTicket, StageRoot, StageVolumes, StageSwitch, StageAgent, StageHealthy}

// Rank returns the position of a stage in Stages, or -1 when it is unknown.
func (s Stage) Rank() int {
	for i, t := range Stages {
		if s == t {
			return i
		}
	}
	return -1
}

// Outcome is how a boot ended; empty while it is under way.
type Outcome string

// The outcomes of a boot.
const (
	OutcomeOpen    Outcome = ""        // under way
	OutcomeHealthy Outcome = "healthy" // the Report says so, and the measured root is the assigned one
	OutcomeFailed  Outcome = "failed"  // the machine reported a failure, or its Report is not good
	OutcomeSilent  Outcome = "silent"  // no Report by the deadline, a newer boot began first, or the first stage stalled
	OutcomeWaiting Outcome = "waiting" // it ended before an image was decided: the machine waited for an operator
)

// Disk is one block device of a machine, as the kernel names it.
type Disk struct {
	Name   string `json:"name"`             // "vda"
	Serial string `json:"serial,omitempty"` // from sysfs or udev
	WWN    string `json:"wwn,omitempty"`
	Model  string `json:"model,omitempty"`
	Path   string `json:"path,omitempty"`  // where it is attached: "pci-0000:00:1f.2-ata-1"
	Size   int64  `json:"size"`            // bytes
	Holds  string `json:"holds,omitempty"` // "blank", `ext4 "data"`, "GPT partition table", "unknown data"
	// whose volume it holds, as the volume itself says
	Owner *VolumeOwner `json:"owner,omitempty"`
}

// VolumeOwner says whose a volume is. Every volume carries it on its disk.
type VolumeOwner struct {
	Fleet   string    `json:"fleet"` // Ticket.Fleet of the server
	Machine MachineID `json:"machine"`
	Volume  string    `json:"volume"` // name in the profile
}

// NIC is one network interface of a machine.
type NIC struct {
	Name     string `json:"name"`
	MAC      string `json:"mac"`
	Driver   string `json:"driver,omitempty"`
	Firmware string `json:"firmware,omitempty"` // version, from the driver (ethtool)
	Speed    int    `json:"speed,omitempty"`    // Mbit/s; 0 when the link is down or the driver does not say
	Boot     bool   `json:"boot,omitempty"`     // the one that the machine booted from
}

// Facts are what a machine reports about its hardware at each boot.
type Facts struct {
	UUID     string   `json:"uuid,omitempty"` // SMBIOS system UUID
	Serial   string   `json:"serial,omitempty"`
	Vendor   string   `json:"vendor,omitempty"`
	Product  string   `json:"product,omitempty"`
	BIOS     string   `json:"bios,omitempty"`     // vendor and version
	BIOSDate string   `json:"biosDate,omitempty"` // as SMBIOS writes it: "04/01/2014"
	Firmware Firmware `json:"firmware,omitempty"`
	Arch     Arch     `json:"arch,omitempty"`
	CPU      string   `json:"cpu,omitempty"` // model name
	Cores    int      `json:"cores,omitempty"`
	RAM      int64    `json:"ram,omitempty"` // bytes that the kernel can use (MemTotal)
	// RAMInstalled is the size of all memory modules in bytes, from SMBIOS; 0 when
	// it is unknown.
	RAMInstalled int64  `json:"ramInstalled,omitempty"`
	NICs         []NIC  `json:"nics,omitempty"`
	Disks        []Disk `json:"disks,omitempty"`
	Kernel       string `json:"kernel,omitempty"` // uname -r
	// Stamps says that its ingot-init checks and writes owners of volumes. Those of
	// older images mount whatever has the right label.
	Stamps bool `json:"stamps,omitempty"`
	// SecureBoot says that the firmware starts only programs that are signed for it. Older images do
	// not report it.
	SecureBoot bool `json:"secureBoot,omitempty"`
}

// TicketRequest is posted by ingot-init to BootPath(boot, "ticket").
type TicketRequest struct {
	Nonce string `json:"nonce"` // at least 16 random bytes in hex; the ticket repeats it
	Facts Facts  `json:"facts"`
	// Half is the machine's public half of the boot's secret. ingot-init draws it once and repeats it in
	// every request of the boot. Empty in images without FeatureAuthenticated.
	Half Half `json:"half,omitempty"`
}

// Ticket is what one boot of one machine is allowed to run. It travels as a
// SignedTicket. A machine accepts it only when the signature is the server
// key's, Nonce is the one that it sent, and Expires has not passed: since the
// nonce proves that the ticket is younger than the request, the machine
// measures its age from its own monotonic clock and needs no correct RTC.
type Ticket struct {
	Boot       BootID        `json:"boot"`
	Machine    MachineID     `json:"machine"`
	Hostname   string        `json:"hostname"`
	MachineKey string        `json:"machineKey"` // 32 hex digits: systemd machine-id(5), stable for the machine
	Nonce      string        `json:"nonce"`
	Issued     time.Time     `json:"issued"`
	Expires    time.Time     `json:"expires"`
	Image      Digest        `json:"image"` // digest of the OCI manifest: what is assigned
	Name       string        `json:"name"`  // "node:2026.11.23-1", for people
	Grants     []Grant       `json:"grants,omitempty"`
	Heartbeat  time.Duration `json:"heartbeat,omitempty"` // zero means 30 s
	// Deadline is how long after Issued the machine may take to be healthy. Then
	// it reboots by itself. Zero means no limit.
	Deadline time.Duration `json:"deadline,omitempty"`
	// Restart makes a machine reboot that finds itself unhealthy, because its next
	// boot is another attempt or of another image. Otherwise it stays up, so that an
	// operator can look at it.
	Restart bool `json:"restart,omitempty"`
	// Fleet names the server's installation: 32 hex digits that never change. Empty from
	// servers that know no owners of volumes.
	Fleet string `json:"fleet,omitempty"`
	// Had are the disks whose volumes this machine used before volumes had owners: it may
	// take these as its own.
	Had []Disk `json:"had,omitempty"`
	// Adoptions are the grants with Adopt. They are not in Grants, which older images take
	// as permissions to initialise.
	Adoptions []Grant `json:"adoptions,omitempty"`
	// MachineHalf and ServerHalf are the public halves of the boot's secret, see BootSecret. Without
	// them, messages of the boot are not authenticated: image or server are older.
	MachineHalf Half `json:"machineHalf,omitempty"`
	ServerHalf  Half `json:"serverHalf,omitempty"`
	// Token is what the server must know to verify messages of the boot, encrypted by it and for it. The
	// machine returns it with every message, in HeaderToken.
	Token string `json:"token,omitempty"`
	// Arguments are the kernel arguments of this boot beyond those of its image. With FeatureArguments,
	// the machine refuses a command line that has others.
	Arguments []string `json:"arguments,omitempty"`
	// Shell lets ingot-init start a shell on the machine's consoles before it leaves the initramfs, and
	// when it fails, if the image has FeatureShell.
	Shell bool `json:"shell,omitempty"`
}

// Heartbeat is the usual time between two reports. Agents vary it by a quarter.
const Heartbeat = 30 * time.Second

// SignedTicket is a Ticket in exactly the bytes that were signed.
type SignedTicket struct {
	Ticket    []byte `json:"ticket"`    // JSON of a Ticket
	Signature string `json:"signature"` // minisign signature file text over Ticket
	// ServerKeys and ReleaseKeys lead from keys that were replaced to those in use, the oldest first.
	// Images without FeatureSuccessors ignore them.
	ServerKeys  []Successor `json:"serverKeys,omitempty"`
	ReleaseKeys []Successor `json:"releaseKeys,omitempty"`
}

// KeyUse is what a key of an installation signs.
type KeyUse string

// The keys whose public halves are in every initramfs.
const (
	KeyServer  KeyUse = "server"  // signs tickets
	KeyRelease KeyUse = "release" // signs images
)

// Successor is a public key that replaced another one, which signed it.
type Successor struct {
	Key       string `json:"key"`       // minisign public key file text
	Signature string `json:"signature"` // minisign signature file text over SuccessorText, by the replaced key
}

// MaxSuccessors bounds the successors that a machine follows.
const MaxSuccessors = 100

// SuccessorText returns what a key signs when another one replaces it. A ticket or a manifest, which
// are JSON, never has this form, and the key for one use never replaces one for another.
func SuccessorText(use KeyUse, key string) []byte {
	return []byte("ingot successor 1 of a " + string(use) + " key\n" + key)
}

// Grant is a one-shot permission to initialise one named blank disk as one volume.
// Without it nothing is ever formatted.
type Grant struct {
	Volume  string    `json:"volume"`
	Disk    string    `json:"disk"` // serial number, WWN or path
	Expires time.Time `json:"expires"`
	// Adopt permits to take over the volume that the disk holds. Nothing is formatted.
	Adopt bool `json:"adopt,omitempty"`
}

// Event is one step of a boot that the machine reports; posted to BootPath(boot, "events").
type Event struct {
	Stage  Stage         `json:"stage"`
	Error  string        `json:"error,omitempty"`  // not empty: the stage failed, and this is why
	Code   FailureCode   `json:"code,omitempty"`   // with Error: what kind of failure
	Detail string        `json:"detail,omitempty"` // for people: "volume data refused: disk vda holds ext4"
	Retry  bool          `json:"retry,omitempty"`  // with Error: the machine will try the stage again by itself
	Bytes  int64         `json:"bytes,omitempty"`  // bytes moved in this stage
	Uptime time.Duration `json:"uptime,omitempty"` // since the kernel started
	// in StageVolumes: names of volumes initialised or adopted with a grant
	Volumes []string `json:"volumes,omitempty"`
	// in StageVolumes: a filesystem is being checked, and the check advances. The
	// deadline of the boot moves with it.
	Check *VolumeCheck `json:"check,omitempty"`
	// in StageVolumes, also with Error: what became of every volume of the image
	Results []VolumeResult `json:"results,omitempty"`
	Down    bool           `json:"down,omitempty"` // in StageAgent: the system shuts down
	// in StageAgent: how far an order is, and nothing else
	Order *OrderStep `json:"order,omitempty"`
}

// VolumeCheck is how far the check of a volume's filesystem is.
type VolumeCheck struct {
	Volume  string `json:"volume"`
	Device  string `json:"device"` // "/dev/vdb"
	Percent int    `json:"percent"`
}

// CheckResult is the outcome of one health check.
type CheckResult struct {
	Name     string        `json:"name"`
	OK       bool          `json:"ok"`
	Detail   string        `json:"detail,omitempty"`
	Duration time.Duration `json:"duration,omitempty"`
}

// Report describes a running machine. The agent posts it to BootPath(boot,
// "report"): first when the checks are decided, and then as heartbeat.
type Report struct {
	Boot     BootID        `json:"boot"`
	Image    Digest        `json:"image"`   // as in the ticket
	Root     Digest        `json:"root"`    // measured: sha256 of the mounted root device
	Healthy  bool          `json:"healthy"` // all checks passed
	Checks   []CheckResult `json:"checks,omitempty"`
	Failed   []string      `json:"failed,omitempty"`   // systemd units that failed
	RAMUsed  int64         `json:"ramUsed,omitempty"`  // bytes, MemTotal - MemAvailable
	RAMTotal int64         `json:"ramTotal,omitempty"` // bytes
	// bytes; of the overlay, to which everything outside of volumes is written
	OverlayUsed int64 `json:"overlayUsed,omitempty"`
	OverlaySize int64 `json:"overlaySize,omitempty"`
	// what became of the volumes when the machine booted
	Volumes  []VolumeResult `json:"volumes,omitempty"`
	Uptime   time.Duration  `json:"uptime,omitempty"`
	Kernel   string         `json:"kernel,omitempty"`
	Hostname string         `json:"hostname,omitempty"`
}

// BootPath is the URL path of a resource of one boot. The parts:
//
//	script                  GET  iPXE script; a machine that waits sends its SMBIOS data in a query or a POST form
//	<file hex>/<file>       GET  a first stage by HTTP: <file hex> is its digest
//	<image hex>/uki.efi     GET
//	<image hex>/kernel      GET
//	<image hex>/initramfs   GET
//	<image hex>/manifest    GET  OCI manifest, bytes as signed
//	<image hex>/signature   GET  minisign signature of manifest
//	<image hex>/config      GET  ImageManifest
//	<image hex>/root        GET  with ranges
//	ticket                  POST TicketRequest → SignedTicket
//	events                  POST Event
//	console                 POST text: the log of kernel and ingot-init since the last post, at most MaxConsole
//	crash                   POST text: what the firmware kept of the crash before this boot (pstore)
//	report                  POST Report → nothing, or an Order
//
// After a ticket with halves, events, console, crash and report carry HeaderAuth and HeaderToken.
func BootPath(boot BootKey, part string) string { return "/b/" + string(boot) + "/" + part }

// Kernel command line keys that the loader's script passes to ingot-init; and
// the one that a UKI carries.
const (
	ArgServer = "ingot.server" // base URL, "http://10.99.0.1:80"
	ArgBoot   = "ingot.boot"   // BootKey
	ArgMAC    = "ingot.mac"    // MAC address of the boot NIC
	ArgDebug  = "ingot.debug"  // present: more detail on the console
	// ArgPanic is what the script adds unless the image or the boot sets panic: a kernel that cannot go on
	// must not wait for a person.
	ArgPanic = "panic=30"

	ArgRootHash = "ingot.roothash" // root hash of the dm-verity tree: 64 hex digits
	// where the root is when there is no server: LocalPartition or LocalISO and an identifier
	ArgLocal = "ingot.local"
)

// Where a root is that is not fetched. Values of ArgLocal begin with one of them.
const (
	LocalPartition = "partition/" // and the partition's UUID in a GPT
	LocalISO       = "iso/"       // and the volume label of an ISO 9660 file system that holds LocalRoot
	LocalRoot      = "root.sqf"
)

// Local is the image of a machine that boots without a server. It is LocalFile in
// the initramfs of an exported UKI, and trusted as far as the firmware trusts the
// UKI.
type Local struct {
	Image    Digest        `json:"image"` // digest of the OCI manifest
	Manifest ImageManifest `json:"manifest"`
}

// Paths on the machine that initramfs and agent agree on.
const (
	// KeyDir in the initramfs holds release.pub and server.pub (minisign public key files).
	KeyDir = "/etc/ingot"
	// LocalFile in the initramfs of a UKI that boots without a server holds a Local.
	LocalFile = KeyDir + "/local.json"
	// RunDir survives the switch of root and holds boot.json and the root image.
	RunDir = "/run/ingot"
	// ShellPath in the initramfs is busybox, in images with FeatureShell.
	ShellPath = "/bin/busybox"
	// AgentPath is where the image carries ingot-init for use as the agent.
	AgentPath = "/usr/lib/ingot/ingot-init"
)

// MaxConsole bounds one post of console text, in bytes.
const MaxConsole = 32 << 10
