package bootserver

import (
	"ingot"
	"ingot/bootserver/booter"
	"ingot/bootserver/httpboot"
)

// unproven returns what a machine may post that proves nothing, as images do that cannot.
func unproven(b *booter.Booter, id ingot.BootID, part string) httpboot.Sender {
	s, err := b.Sender(id, ingot.Message{Method: "POST", Path: "/" + part}, "", "")
	if err != nil {
		panic(err) // only for a proof that is wrong
	}
	return s
}

func (h *house) Console(id ingot.BootID, text string) error {
	return unproven(h.Booter, id, "console").Console(text)
}

func (h *house) Crash(id ingot.BootID, text string) error {
	return unproven(h.Booter, id, "crash").Crash(text)
}

func (h *house) Event(id ingot.BootID, e ingot.Event) error {
	return unproven(h.Booter, id, "events").Event(e)
}

func (p party) Crash(id ingot.BootID, text string) error {
	return unproven(p.Booter, id, "crash").Crash(text)
}

func (p party) Event(id ingot.BootID, e ingot.Event) error {
	return unproven(p.Booter, id, "events").Event(e)
}

func (p party) Report(id ingot.BootID, r ingot.Report) error {
	_, err := unproven(p.Booter, id, "report").Report(r)
	return err
}
