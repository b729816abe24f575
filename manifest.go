package ingot

import (
	"slices"
	"time"
)

// ImageManifest describes one image; it is the config blob of the image's OCI
// manifest, whose digest is the digest of the image. A machine verifies in
// this order: OCI manifest bytes against Ticket.Image, the release key's
// signature over them, config blob against the OCI manifest, and then kernel
// and root against the digests in here.
type ImageManifest struct {
	Schema    int       `json:"schema"` // 1
	Profile   string    `json:"profile"`
	Version   string    `json:"version"`
	Arch      Arch      `json:"arch"`
	Plan      Digest    `json:"plan"`    // digest of the canonical plan
	Created   time.Time `json:"created"` // SOURCE_DATE_EPOCH of the plan, never the wall clock
	Kernel    Artifact  `json:"kernel"`
	Initramfs Artifact  `json:"initramfs"`
	Root      Artifact  `json:"root"`
	// Chunks cut Root into consecutive pieces, so that a download can be
	// verified while it runs and resumed. Their sizes add up to Root.Size.
	Chunks []Chunk `json:"chunks"`
	// Verity describes the dm-verity tree at the end of Root.
	Verity *Verity `json:"verity,omitempty"`
	// UKI is kernel, initramfs and arguments as one program for UEFI; its
	// arguments are Arguments and ArgRootHash.
	UKI *Artifact `json:"uki,omitempty"`
	// PCR11 is what PCR 11 of a TPM holds when UKI's stub hands over to the
	// kernel: hex digits by bank, "sha256" and "sha384".
	PCR11         map[string]string `json:"pcr11,omitempty"`
	KernelRelease string            `json:"kernelRelease"` // "6.12.90+deb13-cloud-amd64"
	Arguments     []string          `json:"arguments,omitempty"`
	Packages      int               `json:"packages"`           // number of packages in the root
	Unpacked      int64             `json:"unpacked"`           // bytes of file content in the root
	Hostname      string            `json:"hostname,omitempty"` // template: {name}, {mac}, {serial}; empty means {name}
	// bytes; size limit of the tmpfs over the root. Zero means a quarter of RAM
	Overlay int64 `json:"overlay"`
	// bytes; a machine with less than 7/8 of it refuses to boot this image
	MinRAM int64 `json:"minRAM"`
	// from the decision for this image (script, or offer of its UKI) to Report; zero: the server's
	// boots.deadline
	Deadline time.Duration `json:"deadline"`
	Volumes  []Volume      `json:"volumes,omitempty"`
	// Scratch is the folders that are no part of the overlay over the root.
	Scratch []Scratch `json:"scratch,omitempty"`
	Checks  []Check   `json:"checks,omitempty"`
	// Drain is the hooks that an Order may name.
	Drain []Hook `json:"drain,omitempty"`
	// Users and Groups are the numbers of the root's accounts by name, without root's. Files on volumes
	// belong to the numbers. Images of an older ingot have none; see MovedAccounts.
	Users  map[string]int `json:"users,omitempty"`
	Groups map[string]int `json:"groups,omitempty"`
	// Features is what the image can do beyond what every image can. A server relies on this signed
	// list, never on what a machine says of itself.
	Features []Feature `json:"features,omitempty"`
}

// Feature is an ability of an image, by a name that keeps its meaning.
type Feature string

// FeatureAuthenticated: ingot-init and the agent agree on a secret with their ticket, and authenticate
// what they send afterwards, see BootSecret.
const FeatureAuthenticated Feature = "authenticated-reports"

// FeatureSuccessors: ingot-init follows SignedTicket.ServerKeys and ReleaseKeys from the keys in its
// initramfs. An image without it boots only with tickets by the very server key that it holds.
const FeatureSuccessors Feature = "key-successors"

// FeatureArguments: ingot-init refuses kernel arguments that neither the manifest nor the ticket has.
const FeatureArguments Feature = "signed-arguments"

// FeatureShell: the profile permits a shell in the initramfs, which has one; see Ticket.Shell.
const FeatureShell Feature = "initramfs-shell"

// FeatureOrders: the agent carries out an Order of kind OrderReboot, with the hooks that it names.
const FeatureOrders Feature = "reboot-orders"

// The builder reads what an ingot-init can do from the text in its binary: MarkFeature and the name.
const (
	MarkFeature       = "ingot-init-feature="
	MarkAuthenticated = MarkFeature + string(FeatureAuthenticated)
	MarkSuccessors    = MarkFeature + string(FeatureSuccessors)
	MarkArguments     = MarkFeature + string(FeatureArguments)
	MarkShell         = MarkFeature + string(FeatureShell)
	MarkOrders        = MarkFeature + string(FeatureOrders)
)

// Has reports whether the image has a feature.
func (m *ImageManifest) Has(f Feature) bool { return slices.Contains(m.Features, f) }

// Name returns the image's name for people.
func (m *ImageManifest) Name() ImageName { return ImageName{m.Profile, m.Version} }

// Artifact is one file of an image.
type Artifact struct {
	Digest Digest `json:"digest"`
	Size   int64  `json:"size"` // bytes
}

// Chunk is one piece of the root.
type Chunk struct {
	Digest Digest `json:"digest"`
	Size   int64  `json:"size"` // bytes
}

// Verity is the dm-verity tree of a root: format 1 with a superblock, SHA-256,
// blocks of 4096 bytes. The root's bytes before HashOffset are the data.
type Verity struct {
	RootHash   string `json:"rootHash"`   // 64 hex digits, as veritysetup takes them
	Salt       string `json:"salt"`       // hex digits
	UUID       string `json:"uuid"`       // of the hash device
	HashOffset int64  `json:"hashOffset"` // bytes; where the superblock is, and the data ends
}

// Volume is a persistent filesystem that outlives every image. It is found by
// Label or by Serial; a volume with neither is looked for by its Name as label.
type Volume struct {
	Name       string `json:"name"`
	Label      string `json:"label,omitempty"`      // filesystem label, at most 16 bytes for ext4
	Serial     string `json:"serial,omitempty"`     // serial number or WWN of the whole disk
	Filesystem string `json:"filesystem,omitempty"` // empty means ext4
	Mount      string `json:"mount"`                // absolute path in the root
	Options    string `json:"options,omitempty"`    // mount options
	Optional   bool   `json:"optional,omitempty"`   // boot without it when it is not there
	// holds machine-id and SSH host keys; one volume, the first unless the profile says otherwise
	Identity bool `json:"identity,omitempty"`
}

// FSLabel is the filesystem label to look for and to write when initialising.
func (v Volume) FSLabel() string {
	if v.Label != "" {
		return v.Label
	}
	return v.Name
}

// Scratch is a folder of the root that needs a plain filesystem, on which overlays can be made.
type Scratch struct {
	Path   string `json:"path"`             // absolute path in the root
	Volume string `json:"volume,omitempty"` // name of the volume that keeps it; empty, or not there: memory
}

// Check is one health check; exactly one of Units, TCP, HTTP and Command is set.
type Check struct {
	Name string `json:"name"`
	// systemd units that must be active; "@system": no unit failed and start-up finished
	Units   []string      `json:"units,omitempty"`
	TCP     string        `json:"tcp,omitempty"`     // host:port that must accept
	HTTP    string        `json:"http,omitempty"`    // URL that must answer 2xx
	Command []string      `json:"command,omitempty"` // must exit 0
	Timeout time.Duration `json:"timeout,omitempty"` // of one attempt; zero means 10 s
	Within  time.Duration `json:"within,omitempty"`  // how long attempts may go on; zero means 2 minutes
}

// Media types of an ingot image in an OCI layout or registry.
const (
	MediaTypeConfig    = "application/vnd.ingot.image.v1+json"
	MediaTypeKernel    = "application/vnd.ingot.kernel.v1"
	MediaTypeInitramfs = "application/vnd.ingot.initramfs.v1.cpio+zstd"
	MediaTypeRoot      = "application/vnd.ingot.root.v1.squashfs"
	MediaTypeUKI       = "application/vnd.ingot.uki.v1+efi"
	MediaTypePlan      = "application/vnd.ingot.plan.v1+json"
	ArtifactSignature  = "application/vnd.ingot.signature.v1.minisign"
	ArtifactSBOM       = "application/vnd.cyclonedx+json"      // CycloneDX; the media type is the same
	ArtifactSignedUKI  = "application/vnd.ingot.uki.signed.v1" // the UKI, signed for Secure Boot
)

// PropertySize is the property of a component of an SBOM that has the bytes of its files in the root,
// before compression.
const PropertySize = "ingot:size"

// Annotations of a referrer of type ArtifactSignedUKI.
const (
	AnnotationSigner      = "vnd.ingot.secureboot.subject"     // of the certificate, RFC 4514
	AnnotationCertificate = "vnd.ingot.secureboot.certificate" // Digest of its DER form
)
