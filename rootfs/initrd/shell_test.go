package initrd

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal makes a pseudo-terminal. It returns what a person has of it, and its name below /dev.
func terminal(t *testing.T) (person *os.File, name string) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { person.Close() })
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Skip(err)
	}
	return person, fmt.Sprintf("pts/%d", n)
}

// TestShells: each console has a shell that it controls. A console without a device ends its shell at
// once, which leaves the others; when a person leaves one, all are over.
func TestShells(t *testing.T) {
	screen, first := terminal(t)
	serial, second := terminal(t)
	over := make(chan error, 1)
	go func() {
		over <- shells(t.Context(), []string{"null", "no-such-console", first, second}, "/bin/sh", "-i")
	}()
	if _, err := serial.WriteString("tty; ps -o tty= -p $$\n"); err != nil {
		t.Fatal(err)
	}
	said, buf := "", make([]byte, 4096)
	for strings.Count(said, second) < 2 { // the device, and that it controls the shell
		n, err := serial.Read(buf)
		if err != nil {
			t.Fatalf("the shell says %q: %v", said, err)
		}
		said += string(buf[:n])
	}
	select {
	case err := <-over:
		t.Fatalf("the shells ended by themselves: %v", err)
	case <-time.After(shortLived + 500*time.Millisecond):
	}
	if _, err := screen.WriteString("exit\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-over:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("a shell was left, and the others go on")
	}
	if err := shells(t.Context(), []string{"no-such-console"}, "/bin/sh"); err == nil {
		t.Error("a machine without a console has a shell")
	}
}
