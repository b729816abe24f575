package testvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
)

// Lab is a LAN that stays when the program that created it ends. lab.json in its folder describes
// it.
type Lab struct {
	Holder int          `json:"holder"` // process that holds the namespace
	User   bool         `json:"user"`
	Prefix netip.Prefix `json:"prefix"`
	Server int          `json:"server,omitempty"` // process of the boot server
	VMs    []LabVM      `json:"vms"`

	dir string
	lan *LAN
}

// LabVM is one machine of a lab.
type LabVM struct {
	Config
	Tap string `json:"tap"`
}

// Errors of a lab that callers may test for with errors.Is.
var (
	// ErrNoLab: there is no lab in that folder.
	ErrNoLab = errors.New("no lab is running")
	// ErrLabUp: there is a lab in that folder.
	ErrLabUp = errors.New("a lab is already running")
	// ErrNoVM: the lab has no machine of that name.
	ErrNoVM = errors.New("the lab has no such machine")
)

const labFile = "lab.json"

// stopGrace is how long a server has to end by itself.
const stopGrace = 10 * time.Second

// NewLab creates the LAN of a lab in dir, whose previous content it removes.
func NewLab(ctx context.Context, dir string) (*Lab, error) {
	if old, err := OpenLab(dir); err == nil && old.alive(old.Holder, "sleep") {
		return nil, fmt.Errorf("%w in %s", ErrLabUp, dir)
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("creating the lab: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the lab: %w", err)
	}
	lan, err := NewLAN(ctx, Options{Dir: dir, Stay: true})
	if err != nil {
		return nil, err
	}
	l := &Lab{Holder: lan.pid, User: lan.user, Prefix: lan.Prefix, dir: dir, lan: lan}
	return l, l.save()
}

// OpenLab opens the running lab in dir.
func OpenLab(dir string) (*Lab, error) {
	b, err := os.ReadFile(filepath.Join(dir, labFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoLab, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the lab: %w", err)
	}
	l := &Lab{dir: dir}
	if err := json.Unmarshal(b, l); err != nil {
		return nil, fmt.Errorf("reading the lab: %w", err)
	}
	l.lan = &LAN{Dir: dir, Prefix: l.Prefix, pid: l.Holder, user: l.User, stay: true, taps: len(l.VMs)}
	l.lan.init()
	if l.alive(l.Holder, "sleep") {
		if l.lan.ns, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/net", l.Holder)); err != nil {
			return nil, fmt.Errorf("reading the lab's namespace: %w", err)
		}
	}
	return l, nil
}

func (l *Lab) save() error {
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(l.dir, labFile), b, 0o600); err != nil {
		return fmt.Errorf("storing the lab: %w", err)
	}
	return nil
}

// Serve starts a boot server, given by its argv, on the lab's host; its output
// goes to server.log.
func (l *Lab) Serve(ctx context.Context, argv []string) error {
	log, err := os.Create(l.lan.path("server.log"))
	if err != nil {
		return fmt.Errorf("starting the server: %w", err)
	}
	defer log.Close()
	cmd := l.lan.Command(context.WithoutCancel(ctx), argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := l.lan.Start(cmd); err != nil {
		return fmt.Errorf("starting the server: %w", err)
	}
	go func() { _ = cmd.Wait() }() // its log says why it ended
	l.Server = cmd.Process.Pid
	return l.save()
}

// ServerLog returns the output of the server.
func (l *Lab) ServerLog() string {
	b, err := os.ReadFile(l.lan.path("server.log"))
	if err != nil {
		return ""
	}
	return string(b)
}

// Add creates a machine and switches it on.
func (l *Lab) Add(ctx context.Context, c Config) error {
	vm, err := l.lan.StartVM(ctx, c)
	if err != nil {
		return err
	}
	l.VMs = append(l.VMs, LabVM{vm.Config, vm.tap})
	return l.save()
}

// NewHost creates another host on the lab's network. The caller closes it.
func (l *Lab) NewHost(ctx context.Context, name string, address netip.Prefix) (*Host, error) {
	return l.lan.NewHost(ctx, name, address)
}

// Folder returns the folder of the lab's files.
func (l *Lab) Folder() string { return l.dir }

func (l *Lab) vm(name string) (*VM, error) {
	var names []string
	for _, v := range l.VMs {
		if v.Name == name {
			return &VM{Config: v.Config, Console: newConsole(), lan: l.lan, tap: v.Tap}, nil
		}
		names = append(names, v.Name)
	}
	return nil, fmt.Errorf("%w: %q; it has %s", ErrNoVM, name, strings.Join(names, ", "))
}

// Running reports whether a machine is switched on.
func (l *Lab) Running(name string) bool {
	vm, err := l.vm(name)
	return err == nil && qmp(vm.file("qmp"), "query-status") == nil
}

// ConsoleSocket returns the Unix socket of a machine's serial line, which accepts one client at a
// time. Earlier output is in the file NAME.console.log beside it.
func (l *Lab) ConsoleSocket(name string) (string, error) {
	vm, err := l.vm(name)
	if err != nil {
		return "", err
	}
	return vm.file("console"), nil
}

// Power switches a machine: on, off, cycle or reset.
func (l *Lab) Power(ctx context.Context, name, action string) error {
	vm, err := l.vm(name)
	if err != nil {
		return err
	}
	switch action {
	case "reset":
		return vm.Reset()
	case "off", "cycle":
		if err := l.off(ctx, vm); err != nil || action == "off" {
			return err
		}
		return vm.On(ctx)
	case "on":
		if l.Running(name) {
			return nil
		}
		return vm.On(ctx)
	}
	return fmt.Errorf("unknown action %q; want on, off, cycle or reset", action)
}

// off switches a machine off and waits until QEMU has ended.
func (l *Lab) off(ctx context.Context, vm *VM) error {
	if qmp(vm.file("qmp"), "quit") != nil {
		return nil //nolint:nilerr // it is off already
	}
	for qmp(vm.file("qmp"), "query-status") == nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// Down ends machines, server and network, and removes the lab's folder.
func (l *Lab) Down(ctx context.Context) error {
	for _, v := range l.VMs {
		vm, err := l.vm(v.Name)
		if err != nil {
			return err
		}
		if err := l.off(ctx, vm); err != nil {
			return err
		}
	}
	if l.alive(l.Server, "ingot") {
		_ = syscall.Kill(l.Server, syscall.SIGTERM) // it may have ended already
		for end := time.Now().Add(stopGrace); l.alive(l.Server, "ingot") && time.Now().Before(end); {
			time.Sleep(20 * time.Millisecond)
		}
	}
	l.lan.Close()
	if err := os.RemoveAll(l.dir); err != nil {
		return fmt.Errorf("removing the lab: %w", err)
	}
	return nil
}

// alive reports whether a process runs and is still the program that was started: process ids are
// reused.
func (l *Lab) alive(pid int, name string) bool {
	if pid == 0 {
		return false
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && strings.TrimSpace(string(comm)) == name
}
