package volumes

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// attached says where a disk is attached, from its place in sysfs: "pci-0000:00:1f.2-ata-1",
// "pci-0000:00:04.0" for virtio. Numbers that depend on the order in which the kernel found
// controllers (hosts of SCSI, virtio and NVMe) are not part of it. Empty for a disk that is not
// behind PCI and has no other stable place.
func attached(dir string) string {
	target, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return ""
	}
	return attachedPath(target, func(part, file string) string {
		i := strings.Index(target, "/"+part+"/")
		if i < 0 {
			return ""
		}
		b, err := os.ReadFile(filepath.Join(target[:i+1+len(part)], file))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}, text(target, "nsid"))
}

var (
	pciRE  = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)
	scsiRE = regexp.MustCompile(`^[0-9]+:([0-9]+:[0-9]+:[0-9]+)$`)
	ataRE  = regexp.MustCompile(`^ata[0-9]+$`)
	usbRE  = regexp.MustCompile(`^[0-9]+-([0-9.]+:[0-9]+\.[0-9]+)$`)
	sasRE  = regexp.MustCompile(`^end_device-`)
	vmRE   = regexp.MustCompile(`^(vmbus|vio|ccw|xen|platform|[0-9a-f]{8}-[0-9a-f]{4}-)`)
)

// attachedPath makes the name of a disk's place. attribute reads a file of a folder on the way;
// namespace is the number of an NVMe namespace.
func attachedPath(sysfs string, attribute func(part, file string) string, namespace string) string {
	var names []string
	set := func(prefix, of string) {
		if of != "" {
			names = append(names, prefix+of)
		}
	}
	parts := strings.Split(strings.Trim(sysfs, "/"), "/")
	for i, p := range parts {
		switch {
		case pciRE.MatchString(p):
			names = []string{"pci-" + p} // the last one is the card
		case vmRE.MatchString(p) && len(names) == 0 && i > 0:
			set("", p)
		case ataRE.MatchString(p):
			port := attribute(p, "ata_port/"+p+"/port_no")
			if port == "" {
				port = strings.TrimPrefix(p, "ata")
			}
			set("ata-", port)
		case sasRE.MatchString(p):
			set("sas-", attribute(p, "sas_device/"+p+"/sas_address"))
		case usbRE.MatchString(p):
			set("usb-", usbRE.FindStringSubmatch(p)[1])
		case scsiRE.MatchString(p):
			// Behind a port of its own, the only device there says nothing more.
			if at := scsiRE.FindStringSubmatch(p)[1]; at != "0:0:0" {
				set("scsi-", at)
			}
		}
	}
	if len(names) == 0 {
		return ""
	}
	set("nvme-", namespace)
	return strings.Join(names, "-")
}
