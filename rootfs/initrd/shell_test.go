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

// TestShells: each console has a shell that it controls; one without a device has none. When a person, or a
// program that types fast, leaves one, all are over, and messages reach both consoles again.
func TestShells(t *testing.T) {
	screen, first := terminal(t)
	serial, second := terminal(t)
	gone, third := terminal(t)
	held, err := os.OpenFile("/dev/"+third, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	gone.Close() // what is left of it hung up
	c := &console{}
	c.open([]string{first, second})
	over := make(chan error, 1)
	go func() {
		over <- shells(t.Context(), []string{"null", "no-such-console", third, first, second}, "/bin/sh", "-i")
	}()
	if _, err := serial.WriteString("tty; ps -o tty= -p $$\n"); err != nil {
		t.Fatal(err)
	}
	hears(t, serial, second, second) // the device, and that it controls the shell
	if _, err := screen.WriteString("exit\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-over:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a shell was left, and the others go on")
	}
	c.open([]string{first, second})
	go c.say("the shell was left")
	hears(t, screen, "the shell was left")
	hears(t, serial, "the shell was left")
	if err := shells(t.Context(), []string{"no-such-console"}, "/bin/sh"); err == nil {
		t.Error("a machine without a console has a shell")
	}
}

// hears reads from a terminal until it said words, in this order.
func hears(t *testing.T, person *os.File, words ...string) {
	t.Helper()
	said, buf := "", make([]byte, 4096)
	for rest := ""; len(words) > 0; {
		n, err := person.Read(buf)
		if err != nil {
			t.Fatalf("the terminal says %q: %v", said, err)
		}
		said += string(buf[:n])
		rest += string(buf[:n])
		for len(words) > 0 && strings.Contains(rest, words[0]) {
			_, rest, _ = strings.Cut(rest, words[0])
			words = words[1:]
		}
	}
}
