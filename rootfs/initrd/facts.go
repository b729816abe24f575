package initrd

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ingot"
	"ingot/rootfs"
	"ingot/rootfs/volumes"
)

// facts gathers what this machine is, from sysfs and procfs.
func facts(bootMAC string) ingot.Facts {
	total, _ := rootfs.Memory()
	f := ingot.Facts{
		UUID: dmi("product_uuid"), Serial: dmi("product_serial"), Vendor: dmi("sys_vendor"), Product: dmi("product_name"),
		BIOS: strings.TrimSpace(dmi("bios_vendor") + " " + dmi("bios_version")), BIOSDate: dmi("bios_date"),
		Arch: ingot.Arch(
			runtime.GOARCH,
		), Firmware: firmware(), RAM: total, RAMInstalled: rootfs.InstalledMemory(), Kernel: kernelRelease(),
		Stamps: true, SecureBoot: secureBoot(),
	}
	if f.RAMInstalled < f.RAM { // what firmware says is not so
		f.RAMInstalled = 0
	}
	f.CPU, f.Cores = cpu()
	links, err := netlink.LinkList()
	if err == nil {
		for _, l := range links {
			a := l.Attrs()
			if l.Type() != "device" || len(a.HardwareAddr) == 0 {
				continue
			}
			mac := a.HardwareAddr.String()
			f.NICs = append(
				f.NICs,
				ingot.NIC{
					Name:     a.Name,
					MAC:      mac,
					Driver:   driver(a.Name),
					Firmware: nicFirmware(a.Name),
					Speed:    nicSpeed(a.Name),
					Boot:     mac == bootMAC,
				},
			)
		}
	}
	for _, d := range volumes.List(volumes.Host) {
		f.Disks = append(f.Disks, d.Disk)
	}
	return f
}

// nicFirmware is the version of a card's firmware, from its driver (ethtool -i).
func nicFirmware(name string) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer func() { _ = unix.Close(fd) }()
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(info.Fw_version[:])
}

// nicSpeed is what a link runs at in Mbit/s. The kernel says -1 of one that is
// down, or refuses to say anything.
func nicSpeed(name string) int {
	b, err := os.ReadFile("/sys/class/net/" + name + "/speed")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return max(n, 0)
}

func dmi(name string) string {
	b, err := os.ReadFile("/sys/class/dmi/id/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func firmware() ingot.Firmware {
	if _, err := os.Stat("/sys/firmware/efi"); err != nil {
		return ingot.FirmwareBIOS
	}
	if runtime.GOARCH == "arm64" {
		return ingot.FirmwareUEFIarm64
	}
	return ingot.FirmwareUEFIx64
}

// efivars is where the variables of UEFI are shown while they are read: not where systemd mounts them for
// the system, which may write them.
const efivars = "/run/efivars"

// secureBootVariable is SecureBoot of UEFI 2.10 section 3.3. Four bytes of attributes are before its value.
const secureBootVariable = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

// secureBoot reports whether the firmware starts only programs that are signed for it.
func secureBoot() bool {
	if err := os.MkdirAll(efivars, 0o700); err != nil {
		return false
	}
	defer os.Remove(efivars)
	if err := unix.Mount("efivarfs", efivars, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY,
		""); err != nil {
		return false // BIOS
	}
	defer func() { _ = unix.Unmount(efivars, unix.MNT_DETACH) }()
	b, err := os.ReadFile(filepath.Join(efivars, secureBootVariable))
	return err == nil && len(b) == 5 && b[4] == 1
}

func cpu() (model string, cores int) {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", 0
	}
	for _, line := range strings.Split(string(b), "\n") {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "processor":
			cores++
		case "model name":
			model = strings.TrimSpace(value)
		}
	}
	return model, cores
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
