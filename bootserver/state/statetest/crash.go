package statetest

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// writeOne is a change of everything that a state holds.
func writeOne(tx state.Tx, i int) {
	id := ingot.MachineID(fmt.Sprintf("m-%06d", i))
	tx.StoreMachine(fleet.Machine{ID: id, Name: strings.Repeat("x", i%500)})
	tx.PutLease(fleet.Lease{MAC: string(id), Address: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})})
	b := fleet.Boot{ID: bootID(byte(i>>16), byte(i>>8), byte(i)), Machine: id}
	b.Events = []fleet.Event{{Event: ingot.Event{Stage: ingot.StageDHCP}, At: b.Started}}
	tx.StoreBoot(b)
	tx.AddConsole(b.ID, strings.Repeat("y", 10*(i%500)))
	tx.Record(note(id, "written"))
}

// write changes a state, and says on standard output what was acknowledged: for ever, or so
// many times.
func (b Backend) write(t *testing.T, most int) {
	s := b.open(t, b.Writer)
	start := len(s.Machines())
	for i := start; most == 0 || i < start+most; i++ {
		update(t, s, func(tx state.Tx) { writeOne(tx, i) })
		fmt.Println("ack", i)
	}
	closeStore(t, s)
}

// again is a command that runs a test of this program, which calls b.write with dir.
func again(t *testing.T, dir string, before ...string) *exec.Cmd {
	pattern := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	args := append(before, os.Args[0], "-test.run="+pattern)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), WriterVariable+"="+dir)
	return cmd
}

// after checks a store that was opened after a crash: it has all that was acknowledged, and
// of each change all or nothing.
func (b Backend) after(s state.Store, acknowledged int) error {
	if b.Check != nil {
		if err := b.Check(s); err != nil {
			return err
		}
	}
	all, err := s.Boots("", 0)
	if err != nil {
		return err
	}
	lent, err := s.Leases()
	if err != nil {
		return err
	}
	_, last, err := s.Changes(state.Query{Limit: 1})
	if err != nil {
		return err
	}
	n := len(s.Machines())
	if n <= acknowledged || len(all) != n || len(lent) != n || last != uint64(n) {
		return fmt.Errorf("there are %d machines, %d boots, %d leases and %d Changes; %d were acknowledged", n, len(all),
			len(lent), last, acknowledged+1)
	}
	return s.Verify()
}

// testKilled kills a writer at random moments. Everything that it acknowledged is there
// afterwards.
func testKilled(t *testing.T, b Backend) {
	if b.Writer != "" {
		b.write(t, 0)
	}
	if !b.Durable {
		t.Skip("this backend does not outlive its process")
	}
	rounds := 15
	if b.Rounds > 0 {
		rounds = b.Rounds
	}
	dir := t.TempDir()
	acknowledged, total := -1, 0
	for round := range rounds {
		if round%25 == 0 { // a state that grows for ever takes ever longer to open
			dir, total = t.TempDir(), total+acknowledged+1
			acknowledged = -1
		}
		cmd := again(t, dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var kill *time.Timer // from the first change on: a slow machine must not be killed before it began
		for scan := bufio.NewScanner(out); scan.Scan(); {
			if kill == nil {
				kill = time.AfterFunc(rand.N(60*time.Millisecond), func() { _ = cmd.Process.Kill() })
			}
			if _, err := fmt.Sscanf(scan.Text(), "ack %d", &acknowledged); err != nil {
				continue // a line that the kill cut off
			}
		}
		_ = cmd.Wait() // killed
		s := b.open(t, dir)
		if err := b.after(s, acknowledged); err != nil {
			t.Fatalf("after a kill: %v", err)
		}
		closeStore(t, s)
	}
	if total += acknowledged + 1; total < 15 {
		t.Errorf("only %d changes in all; the kills came too early to prove anything", total)
	}
}

// testPowerCut traces what a server writes (strace), and then cuts the power at random
// moments: what was synced before is on the disk; of what was written after that, any part,
// in any order, torn at any sector. Each time the state opens, is whole, and has all that
// was acknowledged.
func testPowerCut(t *testing.T, b Backend) {
	if b.Writer != "" {
		b.write(t, 120)
		return
	}
	if len(b.Files) == 0 {
		t.Skip("this backend does not store in files")
	}
	if testing.Short() {
		t.Skip("traces a program")
	}
	if _, err := exec.LookPath("strace"); err != nil {
		if b.Rounds > 0 {
			t.Fatal("strace is needed; run: scripts/setup test")
		}
		t.Skip("strace is not installed; run: scripts/setup test")
	}
	calls := b.traced(t)
	dir := inMemory(t)
	rounds := 60
	if b.Rounds > 0 {
		rounds = b.Rounds
	}
	lost, torn := 0, 0
	for round := range rounds {
		cut := 1 + rand.N(len(calls))
		acknowledged := acknowledgedIn(calls[:cut])
		if acknowledged < 0 {
			continue // before the first change
		}
		folder := filepath.Join(dir, strconv.Itoa(round))
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range b.Files {
			f := afterPowerCut(calls[:cut], name)
			lost, torn = lost+f.lost, torn+f.torn
			if !f.exists {
				continue
			}
			if err := os.WriteFile(filepath.Join(folder, name), f.data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := b.Open(t.Context(), folder)
		if err != nil {
			t.Fatalf("round %d, cut at call %d of %d: %v", round, cut, len(calls), err)
		}
		if err := b.after(s, acknowledged); err != nil {
			t.Errorf("round %d, cut at call %d: %v", round, cut, err)
		}
		closeStore(t, s)
		os.RemoveAll(folder)
	}
	if lost == 0 || torn == 0 {
		t.Errorf("%d writes were lost and %d torn; want some of both, or nothing is proved", lost, torn)
	}
	t.Logf("%d calls; %d writes lost, %d torn", len(calls), lost, torn)
}

// call is one system call of a writer that was traced.
type call struct {
	kind   string // "write", "size", "sync", "remove", "ack"
	file   string // its name
	offset int64
	data   []byte
	ack    int
}

// inMemory is a folder that syncing costs nothing in, where there is one.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ingot-state-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// traced runs the writer and returns its calls on the state's file.
func (b Backend) traced(t *testing.T) []call {
	t.Helper()
	dir, log := inMemory(t), filepath.Join(t.TempDir(), "trace")
	cmd := again(t, dir, "strace", "-f", "-y", "-xx", "-s", "10000000", "-e",
		"trace=pwrite64,ftruncate,fdatasync,fsync,write,unlinkat,unlink", "-o", log)
	if out, err := cmd.CombinedOutput(); err != nil {
		if strings.Contains(string(out), "ptrace") && b.Rounds == 0 {
			t.Skipf("nothing may be traced here: %s", out)
		}
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var calls []call
	unfinished := map[string]call{} // by thread
	for scan := newLines(f); scan.Scan(); {
		if c, ok := b.parseCall(scan.Text(), unfinished); ok {
			calls = append(calls, c)
		}
	}
	if len(calls) < 300 {
		t.Fatalf("%d calls were traced; want those of 120 changes", len(calls))
	}
	return calls
}

func newLines(f *os.File) *bufio.Scanner {
	s := bufio.NewScanner(f)
	s.Buffer(nil, 64<<20)
	return s
}

// cutCall takes a line of strace apart: THREAD NAME(FD<PATH>, ARGUMENTS. Lines
// are megabytes of hexadecimal digits, so no regular expression is used.
func cutCall(line string) (thread, name, path, args string, ok bool) {
	thread, rest, _ := strings.Cut(line, " ")
	name, rest, _ = strings.Cut(strings.TrimLeft(rest, " "), "(")
	_, rest, ok = strings.Cut(rest, "<")
	path, args, ok2 := strings.Cut(rest, ">")
	return thread, name, string(unhex(path)), strings.TrimPrefix(args, ", "), ok && ok2
}

// cutData takes `"\x61…", LENGTH, OFFSET` apart.
func cutData(args string) (data []byte, offset int64, ok bool) {
	text, ok := strings.CutPrefix(args, `"`)
	text, rest, ok2 := strings.Cut(text, `"`)
	f := strings.FieldsFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if !ok || !ok2 || len(f) == 0 {
		return nil, 0, false
	}
	if len(f) > 1 {
		offset, _ = strconv.ParseInt(f[1], 10, 64)
	}
	return unhex(text), offset, true
}

// parseCall reads one line of strace. A call that another thread interrupts is in two lines: its arguments
// are in the first one, its end and whether it succeeded in the second one. Of syncs and removals it
// matters that they did.
func (b Backend) parseCall(line string, unfinished map[string]call) (call, bool) {
	done := strings.HasSuffix(line, "= 0")
	if thread, rest, ok := strings.Cut(line, " "); ok && strings.Contains(rest, " resumed>") {
		c, is := unfinished[thread]
		delete(unfinished, thread)
		return c, is && done
	}
	thread, c, ok := b.parseArguments(line)
	switch {
	case !ok || c.kind != "sync" && c.kind != "remove":
		return c, ok
	case strings.HasSuffix(line, "<unfinished ...>"):
		unfinished[thread] = c
		return call{}, false
	}
	return c, done
}

// parseArguments reads what a call was asked.
func (b Backend) parseArguments(line string) (thread string, _ call, _ bool) {
	if thread, file, ok := b.parseRemoval(line); ok {
		return thread, call{kind: "remove", file: file}, true
	}
	thread, name, path, args, ok := cutCall(line)
	if !ok {
		return "", call{}, false
	}
	file := filepath.Base(path)
	ours := slices.Contains(b.Files, file)
	switch {
	case name == "write":
		var n int
		data, _, _ := cutData(args)
		_, err := fmt.Sscanf(string(data), "ack %d", &n)
		return thread, call{kind: "ack", ack: n}, err == nil
	case name == "pwrite64" && ours:
		data, at, ok := cutData(args)
		return thread, call{kind: "write", file: file, offset: at, data: data}, ok
	case name == "ftruncate" && ours:
		size, _, _ := strings.Cut(strings.TrimSuffix(args, " <unfinished ...>"), ")")
		n, err := strconv.ParseInt(size, 10, 64)
		return thread, call{kind: "size", file: file, offset: n}, err == nil
	}
	return thread, call{kind: "sync", file: file}, ours && strings.HasSuffix(name, "sync")
}

// parseRemoval reads the arguments of unlink or unlinkat, whose path is a text.
func (b Backend) parseRemoval(line string) (thread, file string, ok bool) {
	name, args, _ := strings.Cut(line, "(")
	_, text, ok := strings.Cut(args, `"`)
	text, _, ok2 := strings.Cut(text, `"`)
	if !strings.Contains(name, " unlink") || !ok || !ok2 {
		return "", "", false
	}
	thread, _, _ = strings.Cut(line, " ")
	file = filepath.Base(string(unhex(text)))
	return thread, file, slices.Contains(b.Files, file)
}

// unhex reads \x61\x62, and leaves other text as it is.
func unhex(s string) []byte {
	if !strings.HasPrefix(s, `\x`) {
		return []byte(s)
	}
	b := make([]byte, 0, len(s)/4)
	for ; len(s) >= 4; s = s[4:] {
		n, err := strconv.ParseUint(s[2:4], 16, 8)
		if err != nil {
			return nil
		}
		b = append(b, byte(n))
	}
	return b
}

// acknowledgedIn is the last change that was acknowledged in some calls, or -1.
func acknowledgedIn(calls []call) int {
	for _, c := range slices.Backward(calls) {
		if c.kind == "ack" {
			return c.ack
		}
	}
	return -1
}

// remains is what a disk has of a file after a power cut.
type remains struct {
	exists     bool
	data       []byte
	lost, torn int // writes
}

// afterPowerCut is what the disk may hold of a file when the power is cut after these calls. A file
// exists when it was synced, or earlier, for its folder is synced with it. Its removal may be lost.
func afterPowerCut(calls []call, name string) (r remains) {
	const sector = 512
	synced := -1
	removed := false
	for i, c := range calls {
		if c.file == name && c.kind == "sync" {
			synced = i
		}
	}
	apply := func(offset int64, data []byte) {
		if need := offset + int64(len(data)); need > int64(len(r.data)) {
			r.data = append(r.data, make([]byte, need-int64(len(r.data)))...)
		}
		copy(r.data[offset:], data)
	}
	late := []call{}
	for i, c := range calls {
		switch {
		case c.file != name:
		case c.kind == "remove":
			removed = true
		case c.kind == "size" && c.offset > int64(len(r.data)):
			r.data = append(r.data, make([]byte, c.offset-int64(len(r.data)))...)
		case c.kind == "write" && i <= synced:
			r.exists = true
			apply(c.offset, c.data)
		case c.kind == "write":
			r.exists = true
			late = append(late, c)
		}
	}
	for _, i := range rand.Perm(len(late)) {
		c := late[i]
		switch rand.N(3) {
		case 0:
			r.lost++
		case 1:
			apply(c.offset, c.data)
		default: // any of its sectors
			r.torn++
			for at := 0; at < len(c.data); at += sector {
				if rand.N(2) == 0 {
					apply(c.offset+int64(at), c.data[at:min(at+sector, len(c.data))])
				}
			}
		}
	}
	if removed || synced < 0 {
		r.exists = r.exists && rand.N(2) == 0
	}
	return r
}
