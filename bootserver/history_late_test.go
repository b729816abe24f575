package bootserver

import (
	"net/http"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"ingot"
	"ingot/bootserver/httpboot"
)

// anyBoot is a boot that runs or ran.
func (s *history) anyBoot(t *rapid.T) ingot.BootID {
	list := slices.Clone(s.old)
	for _, c := range s.computers {
		if c.boot != "" {
			list = append(list, c.boot)
		}
	}
	if len(list) == 0 {
		return ""
	}
	return list[draw(t, indices(len(list)), "boot")]
}

// late is a word of a boot that is over, of each kind: it changes nothing, and
// is refused.
func (s *history) late(t *rapid.T) {
	id := s.anyBoot(t)
	b, _ := s.state.Boot(id)
	if m, _ := s.state.Machine(b.Machine); id == "" || m.Boot == id {
		return // it is not over for the server
	}
	before := s.copy()
	for part, body := range map[string]any{
		"report":  ingot.Report{Boot: id, Root: b.Root, Healthy: rapid.Bool().Draw(t, "well")},
		"events":  ingot.Event{Stage: ingot.StageRoot, Error: "late"},
		"console": "late",
		"crash":   "late\nKernel panic - not syncing: late",
		"ticket":  ingot.TicketRequest{Nonce: nonce, Facts: ingot.Facts{Serial: "S9", RAM: 1}},
	} {
		if status, text := s.ask("POST", s.BootKey(id), part, body); status != http.StatusForbidden &&
			status != http.StatusNotFound {
			t.Fatalf("POST %s of a boot that is over = %d %s", part, status, text)
		}
	}
	if err := s.Waits(id, ingot.Facts{Vendor: "late"}); !is(err, httpboot.ErrUnknown) {
		t.Fatal(err)
	}
	s.unchanged(before, "late words of a boot that is over")
	// Bytes that were under way when the boot ended are its own matter.
	machines := string(mustJSON(t, s.state.Machines()))
	s.Served(id, "root", 1000, true)
	s.Served(id, "kernel", 1000, true)
	if after := string(mustJSON(t, s.state.Machines())); after != machines {
		t.Fatalf("bytes of a boot that is over changed\n%s\nto\n%s", machines, after)
	}
}

// forges asks with keys that the server did not make.
func (s *history) forges(t *rapid.T) {
	id, other := s.anyBoot(t), s.anyBoot(t)
	if id == "" {
		return
	}
	key, half := string(s.BootKey(id)), string(s.BootKey(other))[32:]
	if id == other {
		half = strings.Repeat("0", 32)
	}
	at := rapid.IntRange(0, 63).Draw(t, "digit")
	before := s.copy()
	for _, forged := range []string{key[:32] + half, key[:at] + flip(key[at]) + key[at+1:], key[:at], key + key[at:],
		key[:32]} {
		for _, q := range bootRequests(id, s.kept[s.names[0]].Image) {
			if status, text := s.ask(q.method, ingot.BootKey(forged), q.part, q.body); status != http.StatusNotFound {
				t.Fatalf("%s %s with a forged key = %d %s", q.method, q.part, status, text)
			}
		}
	}
	s.unchanged(before, "forged keys")
}

// fetches asks for files: a boot gets those of its own image, while it may.
func (s *history) fetches(t *rapid.T) {
	if id := s.anyBoot(t); id != "" {
		for _, name := range s.names {
			for _, part := range []string{"kernel", "initramfs", "root", "uki.efi", "config", "manifest", "signature"} {
				s.fetch(id, s.kept[name], part)
			}
		}
	}
}

func (s *history) fetch(id ingot.BootID, i *kept, part string) {
	status, text := s.ask("GET", s.BootKey(id), i.Digest.Hex()+"/"+part, nil)
	if may := s.may(id, i.Digest); may != (status == http.StatusOK) || !may && status != http.StatusForbidden &&
		status != http.StatusNotFound {
		b, _ := s.state.Boot(id)
		m, _ := s.state.Machine(b.Machine)
		s.t.Fatalf("GET %s of %s (here: %t, signed by %s) = %d %.80q; the boot is of %q, %q, latest: %t, of a machine "+
			"that is %s",
			part, i.Name, i.here, i.signer, status, text, b.Image.Name, b.Outcome, m.Boot == id, m.State)
	}
}
