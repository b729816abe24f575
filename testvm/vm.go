package testvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Firmware of a virtual machine.
type Firmware string

// The firmwares of the lab. BIOS is SeaBIOS with the old iPXE of QEMU's card
// ROM; UEFI is OVMF with its own network stack, the card's ROM switched off;
// ARM64 is the same firmware, EDK2, for arm64, on a machine of that kind.
const (
	BIOS  Firmware = "BIOS"
	UEFI  Firmware = "UEFI"
	ARM64 Firmware = "ARM64"
)

// flash has the code and the empty variables of the firmwares that have them.
var flash = map[Firmware][2]string{
	UEFI:  {"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	ARM64: {"/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"},
}

// Disk is a virtual disk.
type Disk struct {
	Path   string `json:"path"` // raw image
	Serial string `json:"serial"`
}

// NewDisk creates a sparse, blank disk of size bytes.
func NewDisk(path, serial string, size int64) (Disk, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Disk{}, fmt.Errorf("creating a disk: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return Disk{}, fmt.Errorf("creating a disk: %w", err)
	}
	return Disk{path, serial}, nil
}

// Config is the hardware of a virtual machine.
type Config struct {
	Name     string   `json:"name"` // also names its files in the LAN's folder
	Firmware Firmware `json:"firmware"`
	MAC      string   `json:"mac"`
	RAM      int      `json:"ram,omitempty"`  // MiB; 0 means 1024
	CPUs     int      `json:"cpus,omitempty"` // 0 means 2, and 1 for an emulated amd64 machine
	Disks    []Disk   `json:"disks,omitempty"`
	HTTPBoot bool     `json:"httpBoot,omitempty"` // UEFI boots by HTTP and not by PXE
	IPv6     bool     `json:"ipv6,omitempty"`     // UEFI boots over IPv6, and not over IPv4
	// Offline machines have no network card: they boot from Disks[0], or from
	// ISO when that is set.
	Offline bool   `json:"offline,omitempty"`
	ISO     string `json:"iso,omitempty"` // path of a disc in a drive
	TPM     bool   `json:"tpm,omitempty"` // has a TPM 2.0, by swtpm; blank at each start
}

// VM is a virtual machine on a LAN.
type VM struct {
	Config
	Console *Console

	lan  *LAN
	tap  string
	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// StartVM creates a machine and switches it on.
func (l *LAN) StartVM(ctx context.Context, c Config) (*VM, error) {
	if c.RAM == 0 {
		c.RAM = 1024
	}
	if c.CPUs == 0 {
		c.CPUs = processors(c.Firmware)
	}
	var tap string
	if !c.Offline {
		var err error
		if tap, err = l.addTap(ctx); err != nil {
			return nil, fmt.Errorf("connecting %s: %w", c.Name, err)
		}
	}
	vm := &VM{Config: c, Console: newConsole(), lan: l, tap: tap}
	if f, ok := flash[c.Firmware]; ok {
		if err := copyFile(f[1], vm.file("vars.fd")); err != nil {
			return nil, fmt.Errorf("preparing UEFI of %s: %w", c.Name, err)
		}
	}
	l.mu.Lock()
	l.vms = append(l.vms, vm)
	l.mu.Unlock()
	return vm, vm.On(ctx)
}

func (vm *VM) file(suffix string) string { return vm.lan.path(vm.Name + "." + suffix) }

// board is the machine that QEMU emulates: the program, and what kind.
func (vm *VM) board() []string {
	if vm.Firmware == ARM64 { // without KVM; this model has no pointer authentication, which is slow to emulate
		return []string{"qemu-system-aarch64", "-machine", "virt", "-accel", emulation, "-cpu", "cortex-a72"}
	}
	accel := Accelerator()
	// Without KVM, the guest's virtualization, ciphers and long page tables are useless, and drivers
	// that find them load and test themselves for seconds.
	cpu := "max,svm=off,aes=off,pclmulqdq=off,la57=off"
	if accel == "kvm" {
		cpu = "host"
	}
	return []string{"qemu-system-x86_64", "-machine", "q35,graphics=off", "-accel", accel, "-cpu", cpu}
}

// argv is QEMU's command line. The machine starts halted, so that the console
// is read from the first character on.
func (vm *VM) argv() []string {
	nic := "virtio-net-pci,netdev=n0,bootindex=1,mac=" + vm.MAC
	args := append(vm.board(), "-name", vm.Name,
		"-m", strconv.Itoa(vm.RAM), "-smp", strconv.Itoa(vm.CPUs), "-nodefaults", "-display", "none", "-S",
		"-uuid", vm.uuid(), "-smbios", "type=1,manufacturer=ingot,product=lab,serial=LAB-"+vm.Name,
		"-chardev", "socket,id=serial0,server=on,wait=off,path="+vm.file("console")+
			",logappend=on,logfile="+vm.file("console.log"),
		"-serial", "chardev:serial0", "-qmp", "unix:"+vm.file("qmp")+",server=on,wait=off",
		"-device", "virtio-rng-pci", "-device", "i6300esb", "-action", "watchdog=reset", "-boot", vm.bootWait())
	if f, ok := flash[vm.Firmware]; ok {
		nic += ",romfile="
		// One way to boot at once; each of the others would be tried for a minute.
		yes := map[bool]string{true: "y", false: "n"}
		args = append(args,
			"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+f[0],
			"-drive", "if=pflash,unit=1,format=raw,file="+vm.file("vars.fd"),
			"-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string="+yes[!vm.HTTPBoot && !vm.IPv6],
			"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string="+yes[!vm.HTTPBoot && vm.IPv6],
			"-fw_cfg", "name=opt/org.tianocore/IPv4Support,string="+yes[!vm.IPv6],
			"-fw_cfg", "name=opt/org.tianocore/IPv6Support,string="+yes[vm.IPv6])
	}
	if vm.Firmware == BIOS { // for the kernel's log of a crash, which UEFI keeps in its variables
		args = append(args, "-object", "memory-backend-file,id=erst,size=64K,share=on,mem-path="+vm.file("erst"),
			"-device", "acpi-erst,memdev=erst")
	}
	if !vm.Offline {
		args = append(args, "-netdev", "tap,id=n0,script=no,downscript=no,ifname="+vm.tap, "-device", nic)
	}
	for i, d := range vm.Disks {
		id := fmt.Sprintf("disk%d", i)
		device := "virtio-blk-pci,drive=" + id + ",serial=" + d.Serial
		if vm.Offline && i == 0 && vm.ISO == "" {
			device += ",bootindex=0"
		}
		args = append(args, "-drive", "if=none,format=raw,cache=writeback,id="+id+",file="+d.Path, "-device", device)
	}
	if vm.ISO != "" {
		args = append(args, "-drive", "if=none,format=raw,media=cdrom,readonly=on,id=disc,file="+vm.ISO,
			"-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=disc,bootindex=1")
	}
	if vm.TPM {
		args = append(args, "-chardev", "socket,id=tpm,path="+vm.file("tpm"),
			"-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0")
	}
	return args
}

// bootWait sets how long firmware waits, in milliseconds: before it retries when nothing could be
// booted and, for HTTP over IPv6, before it begins. EDK2 sends its first request at once and gives
// up while duplicate address detection is still running.
func (vm *VM) bootWait() string {
	wait := "reboot-timeout=5000"
	if vm.HTTPBoot && vm.IPv6 {
		wait += ",menu=on,splash-time=5000"
	}
	return wait
}

// uuid is derived from the MAC address, so it is stable and unique.
func (vm *VM) uuid() string {
	return "d1b2c3a4-0000-4000-8000-" + strings.ReplaceAll(vm.MAC, ":", "")
}

// On switches the machine on.
func (vm *VM) On(ctx context.Context) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.done != nil && !closed(vm.done) {
		return nil
	}
	for _, f := range []string{"console", "qmp"} {
		if err := os.Remove(vm.file(f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("starting %s: %w", vm.Name, err)
		}
	}
	if vm.TPM {
		if err := vm.startTPM(ctx); err != nil {
			return fmt.Errorf("starting the TPM of %s: %w", vm.Name, err)
		}
	}
	log, err := os.OpenFile(vm.file("qemu.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("starting %s: %w", vm.Name, err)
	}
	defer log.Close()
	argv := vm.argv()
	argv = vm.lan.enter(argv[0], argv[1:]...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := vm.lan.Start(cmd); err != nil {
		return fmt.Errorf("starting %s: %w", vm.Name, err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }() // its log says why it ended
	vm.cmd, vm.done = cmd, done
	return vm.connect(ctx, done)
}

// startTPM starts a blank TPM and waits for its socket. It ends with its machine.
func (vm *VM) startTPM(ctx context.Context) error {
	dir := vm.file("tpm.d")
	if err := errors.Join(os.RemoveAll(dir), os.RemoveAll(vm.file("tpm")), os.Mkdir(dir, 0o700)); err != nil {
		return err
	}
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--terminate", "--tpmstate", "dir="+dir,
		"--ctrl", "type=unixio,path="+vm.file("tpm"))
	if err := vm.lan.Start(cmd); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		if _, err := os.Stat(vm.file("tpm")); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return fmt.Errorf("swtpm ended: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// connect waits for QEMU to open its sockets, one after the other, attaches
// the console and lets the machine run.
func (vm *VM) connect(ctx context.Context, done chan struct{}) error {
	attached := false
	for {
		if !attached {
			if conn, err := net.Dial("unix", vm.file("console")); err == nil {
				vm.Console.attach(conn)
				attached = true
			}
		}
		if attached {
			err := qmp(vm.file("qmp"), "cont")
			if !errors.Is(err, errNotListening) {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("starting %s: %w", vm.Name, ctx.Err())
		case <-done:
			log, _ := os.ReadFile(vm.file("qemu.log"))
			return fmt.Errorf("starting %s: QEMU ended: %s", vm.Name, strings.TrimSpace(string(log)))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Reset presses the reset button.
func (vm *VM) Reset() error { return qmp(vm.file("qmp"), "system_reset") }

// Kill pulls the plug. What the guest had not synced to its disks is lost to
// the guest, not to the host's page cache.
func (vm *VM) Kill() {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.cmd == nil || vm.cmd.Process == nil {
		return
	}
	_ = vm.cmd.Process.Kill() // gone already is fine
	<-vm.done
}

// PowerCycle pulls the plug and switches on again.
func (vm *VM) PowerCycle(ctx context.Context) error {
	vm.Kill()
	return vm.On(ctx)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
