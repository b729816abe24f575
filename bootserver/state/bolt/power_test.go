package bolt

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// rounds is how often a server dies: a few times, or as the bar wants it.
func rounds(few int) int {
	if os.Getenv("INGOT_TEST_ALL") != "" {
		return 500
	}
	return few
}

// call is one system call of a writer that was traced.
type call struct {
	kind   string // "write", "size", "sync", "ack"
	offset int64
	data   []byte
	ack    int
}

// TestPowerCut traces what a server writes (strace), and then cuts the power at
// random moments: what was synced before is on the disk; of what was written
// after that, any part, in any order, torn at any sector. Each time the state
// opens, is whole, and has all that was acknowledged.
func TestPowerCut(t *testing.T) {
	if testing.Short() {
		t.Skip("traces a program")
	}
	if _, err := exec.LookPath("strace"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("strace is needed in CI; scripts/setup test")
		}
		t.Skip("strace is not installed; scripts/setup test")
	}
	calls := traced(t)
	dir := inMemory(t)
	lost, torn := 0, 0
	for round := range rounds(60) {
		cut := 1 + rand.N(len(calls))
		file, acknowledged, l, n := afterPowerCut(calls[:cut])
		lost, torn = lost+l, torn+n
		if acknowledged < 0 {
			continue // before the first word
		}
		folder := filepath.Join(dir, strconv.Itoa(round))
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "ingot.db"), file, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), folder)
		if err != nil {
			t.Fatalf("round %d, cut at call %d of %d: %v", round, cut, len(calls), err)
		}
		if err := pagesOf(s); err != nil {
			t.Errorf("round %d, cut at call %d: %v", round, cut, err)
		}
		boots, err := s.Boots("", 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Machines()) <= acknowledged || len(boots) <= acknowledged || len(leases(t, s)) <= acknowledged {
			t.Errorf("round %d, cut at call %d: %d machines, %d boots, %d leases; %d were acknowledged", round, cut, len(s.Machines()), len(boots), len(leases(t, s)), acknowledged+1)
		}
		_, last, err := s.Ledger(state.Query{})
		if err != nil || last < uint64(acknowledged) {
			t.Errorf("round %d: the ledger ends at %d (%v); %d changes were acknowledged", round, last, err, acknowledged+1)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		os.RemoveAll(folder)
	}
	if lost == 0 || torn == 0 {
		t.Errorf("%d writes were lost and %d torn; want some of both, or nothing is proved", lost, torn)
	}
	t.Logf("%d calls; %d writes lost, %d torn", len(calls), lost, torn)
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

// TestPowerCutWriter is the program that is traced.
func TestPowerCutWriter(t *testing.T) {
	dir := os.Getenv("STATE_TEST_TRACED")
	if dir == "" {
		t.Skip("started by TestPowerCut")
	}
	s, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 120 {
		id := ingot.MachineID(fmt.Sprintf("m-%06d", i))
		if err := s.Update(func(tx state.Tx) error { writeOne(tx, id, i); return nil }); err != nil {
			t.Fatal(err)
		}
		fmt.Println("ack", i)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// writeOne is a change of everything that a state holds.
func writeOne(tx state.Tx, id ingot.MachineID, i int) {
	tx.PutMachine(fleet.Machine{ID: id, Name: strings.Repeat("x", i)})
	tx.PutLease(fleet.Lease{MAC: string(id), Address: addressOf(i)})
	b := fleet.Boot{ID: ingot.NewBootID([16]byte{byte(i >> 16), byte(i >> 8), byte(i)}), Machine: id}
	b.Events = []fleet.Event{{Event: ingot.Event{Stage: ingot.StageDHCP}, At: b.Started}}
	tx.PutBoot(b)
	tx.AddConsole(b.ID, strings.Repeat("y", 10*i))
}

// traced runs the writer and returns its calls on the state's file.
func traced(t *testing.T) []call {
	t.Helper()
	dir, log := inMemory(t), filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command("strace", "-f", "-y", "-xx", "-s", "10000000", "-e", "trace=pwrite64,ftruncate,fdatasync,fsync,write", "-o", log,
		os.Args[0], "-test.run=^TestPowerCutWriter$")
	cmd.Env = append(os.Environ(), "STATE_TEST_TRACED="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		if strings.Contains(string(out), "ptrace") && os.Getenv("CI") == "" { // CI is root, and may
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
	syncing := map[string]bool{} // by thread
	for scan := newLines(f); scan.Scan(); {
		if c, ok := parseCall(scan.Text(), syncing); ok {
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
// are megabytes of hexadecimal digits, so this is no regular expression.
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

// parseCall reads one line of strace. A call that another thread interrupts is
// in two lines: its arguments are in the first one, its end is the second one.
func parseCall(line string, syncing map[string]bool) (call, bool) {
	if thread, rest, ok := strings.Cut(line, " "); ok && strings.Contains(rest, "sync resumed>") && syncing[thread] {
		delete(syncing, thread)
		return call{kind: "sync"}, strings.HasSuffix(rest, "= 0")
	}
	thread, name, path, args, ok := cutCall(line)
	if !ok {
		return call{}, false
	}
	ours := strings.HasSuffix(path, "/ingot.db")
	switch {
	case name == "write":
		var n int
		data, _, _ := cutData(args)
		_, err := fmt.Sscanf(string(data), "ack %d", &n)
		return call{kind: "ack", ack: n}, err == nil
	case name == "pwrite64" && ours:
		data, at, ok := cutData(args)
		return call{kind: "write", offset: at, data: data}, ok
	case name == "ftruncate" && ours:
		size, _, _ := strings.Cut(strings.TrimSuffix(args, " <unfinished ...>"), ")")
		n, err := strconv.ParseInt(size, 10, 64)
		return call{kind: "size", offset: n}, err == nil
	case !ours || !strings.HasSuffix(name, "sync"):
		return call{}, false
	}
	if strings.HasSuffix(line, "<unfinished ...>") {
		syncing[thread] = true
		return call{}, false
	}
	return call{kind: "sync"}, strings.HasSuffix(line, "= 0")
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

// afterPowerCut is what the disk may hold when the power is cut after these
// calls, and the last change that was acknowledged, or -1.
func afterPowerCut(calls []call) (file []byte, acknowledged, lost, torn int) {
	const sector = 512
	acknowledged = -1
	synced := 0
	for i, c := range calls {
		switch c.kind {
		case "sync":
			synced = i
		case "ack":
			acknowledged = c.ack
		}
	}
	apply := func(offset int64, data []byte) {
		if need := offset + int64(len(data)); need > int64(len(file)) {
			file = append(file, make([]byte, need-int64(len(file)))...)
		}
		copy(file[offset:], data)
	}
	late := []call{}
	for i, c := range calls {
		switch {
		case c.kind == "size" && c.offset > int64(len(file)):
			file = append(file, make([]byte, c.offset-int64(len(file)))...)
		case c.kind == "write" && i <= synced:
			apply(c.offset, c.data)
		case c.kind == "write":
			late = append(late, c)
		}
	}
	for _, i := range rand.Perm(len(late)) {
		c := late[i]
		switch rand.N(3) {
		case 0:
			lost++
		case 1:
			apply(c.offset, c.data)
		default: // any of its sectors
			torn++
			for at := 0; at < len(c.data); at += sector {
				if rand.N(2) == 0 {
					apply(c.offset+int64(at), c.data[at:min(at+sector, len(c.data))])
				}
			}
		}
	}
	return file, acknowledged, lost, torn
}
