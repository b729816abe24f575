package testvm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// probeCode is a boot sector that waits for three timer interrupts, writes to
// QEMU's debug exit port and halts:
//
//	sti; hlt; hlt; hlt; mov dx, 0xf4; mov al, 0x10; out dx, al; hlt
var probeCode = []byte{0xFB, 0xF4, 0xF4, 0xF4, 0xBA, 0xF4, 0x00, 0xB0, 0x10, 0xEE, 0xF4}

// probeExit is what QEMU exits with when the guest ran: (0x10 << 1) | 1.
const probeExit = 33

// Accelerator returns the argument of QEMU's -accel: KVM if a guest runs on it within three
// seconds, else software emulation. That /dev/kvm can be opened is not enough: in a nested sandbox
// every guest may hang, or run until it uses a register that is not passed through. The probe
// therefore has the same CPU model as our machines. It runs once.
var Accelerator = sync.OnceValue(func() string {
	if probeKVM() {
		return "kvm"
	}
	return emulation
})

// emulation bounds the cache of translated code, in MiB. Left at its default of
// 1 GiB it is never flushed, and every reboot leaves more dead translations on
// the pages that the next boot writes to: writing the root took 3, 8, 13 and
// 40 s in four reboots of one machine, and takes 3 s in each with this bound.
const emulation = "tcg,thread=multi,tb-size=256"

// processors is the default number of processors of a machine. An emulated amd64 machine has one:
// Linux patches its own code while it runs (jump labels), and puts a breakpoint there meanwhile.
// QEMU translates each processor's code separately, so another processor may run into the
// breakpoint after it was removed ("Oops: int3 … sched_clock_idle_wakeup_event", then "Fatal
// exception in interrupt"): one of 24 boots with two processors, none of 50 with one.
func processors(f Firmware) int {
	if f != ARM64 && Accelerator() == emulation {
		return 1
	}
	return 2
}

func probeKVM() bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	dir, err := os.MkdirTemp("", "ingot-kvm-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(dir)
	sector := make([]byte, 512)
	copy(sector, probeCode)
	sector[510], sector[511] = 0x55, 0xAA
	disk := filepath.Join(dir, "probe")
	if os.WriteFile(disk, sector, 0o600) != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	err = exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-smp", "2", "-m", "32",
		"-nodefaults", "-display", "none", "-drive", "file="+disk+",format=raw,if=ide", "-device",
		"isa-debug-exit,iobase=0xf4,iosize=0x04").Run()
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == probeExit
}
