// Package explain says in plain sentences how a machine is, and why: it reads
// the machine, its latest boots and what was heard on the network, and names
// the most likely cause first and the commands that lead on. It also finds the
// line of a crashed kernel's log that says why.
//
// It decides nothing, and stores nothing: package fleet decides.
package explain

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
)

// Sizes are the bytes of an image by artifact: kernel, initramfs, root.
type Sizes map[string]int64

// Story is all that an explanation is made of.
type Story struct {
	Machine    fleet.Machine
	Boots      []fleet.Boot           // the latest ones, oldest first
	Needed     map[ingot.Digest]Sizes // of the images of these boots that the store has
	Unservable string                 // why what it is to boot cannot be served
	Untrusted  bool                   `json:",omitempty"` // that is, because of its signature
	Others     []fleet.Other          // that answered the machine, the one that it followed last
	Policy     fleet.Policy
	Now        time.Time // in the operator's time zone
}

// Quiet is how long a machine that was healthy may say nothing: ten heartbeats.
const Quiet = 5 * time.Minute

// Why explains in one paragraph how a machine is, the cause first, and says
// what may be typed next.
func Why(s Story) (words string, next []string) {
	words, next = s.state()
	if past, more := s.past(); past != "" && s.Machine.State == fleet.Approved {
		words += " " + past
		if more != "" {
			next = append([]string{more}, next...)
		}
	}
	if changed := s.changes(); changed != "" && words != "" {
		words += " " + changed
	}
	return words, next
}

// state is the paragraph without what changed.
func (s Story) state() (string, []string) {
	m, host := s.Machine, s.Machine.Hostname()
	b, booted := s.last()
	switch _, err := fleet.Next(m); {
	case m.State == fleet.Retired:
		return fmt.Sprintf("%s is retired: it is not allowed to boot.", host), []string{"ingot machine approve " + host}
	case m.State != fleet.Approved && m.Ask != nil:
		same, other := m.Ask.Answers(m)
		return fmt.Sprintf("%s. It boots after an operator says whether it is the same machine.", sentence(m.Ask.What)),
			[]string{same, other}
	case m.State != fleet.Approved && !booted:
		return fmt.Sprintf("%s has not booted yet and waits for approval.", host), []string{"ingot machine approve " + host}
	case m.State != fleet.Approved:
		return fmt.Sprintf("Has been waiting for approval since %s: no operator has approved %s.", s.at(m.FirstSeen), host),
			[]string{fmt.Sprintf("ingot machine approve %s --name NAME --image PROFILE:VERSION", m.ID)}
	case err != nil && m.Setback == nil:
		return fmt.Sprintf("No image is assigned to %s: it is approved and waits.", host),
			[]string{fmt.Sprintf("ingot assign %s PROFILE:VERSION", host)}
	case s.Unservable != "" && (!booted || !running(b)):
		next := []string{"ingot image ls", fmt.Sprintf("ingot assign %s PROFILE:VERSION", host)}
		if ref, err := fleet.Next(m); err == nil && s.Untrusted {
			next = []string{"ingot image verify " + ref.Name, "ingot key trust --help", next[1]}
		}
		return fmt.Sprintf("What %s is to boot cannot be served: %s.", host, s.Unservable), next
	case m.Setback != nil:
		return s.setback()
	case !booted:
		return fmt.Sprintf("%s has not booted yet; it will get %s.", host, m.Assignment.Name), nil
	}
	return s.ordinary(b)
}

// running reports whether a boot is under way with an image, or became healthy.
func running(b fleet.Boot) bool {
	return b.Open() && b.Image.Image != "" || b.Outcome == ingot.OutcomeHealthy
}

func (s Story) last() (fleet.Boot, bool) {
	if len(s.Boots) == 0 {
		return fleet.Boot{}, false
	}
	return s.Boots[len(s.Boots)-1], true
}

// at is a time as people say it: of another day with its date.
func (s Story) at(t time.Time) string {
	t = t.In(s.Now.Location())
	if t.Format(time.DateOnly) == s.Now.Format(time.DateOnly) {
		return t.Format("15:04")
	}
	return t.Format("Jan 2 15:04")
}

// setback explains a machine whose assigned image was given up.
func (s Story) setback() (string, []string) {
	m, host := s.Machine, s.Machine.Hostname()
	c, attempts := s.failures(m.Setback.Failures)
	cause := sentence(c.on(attempts))
	next := slices.DeleteFunc([]string{c.next, "ingot resume " + host}, func(n string) bool { return n == "" })
	if m.Setback.To.Image == "" {
		return fmt.Sprintf("%s; held for an operator since %s: %s.", cause, s.at(m.Setback.At), m.Setback.Why),
			append(next, fmt.Sprintf("ingot assign %s PROFILE:VERSION", host))
	}
	to := m.Setback.To.Name
	b, _ := s.last()
	switch {
	case b.Image.Image != m.Setback.To.Image:
		return fmt.Sprintf("%s; falls back to %s at its next boot.", cause, to), next
	case b.Open():
		return fmt.Sprintf("%s; fell back to %s, which boots now, %s.", cause, to, s.progress(b)), next
	case b.Outcome == ingot.OutcomeHealthy:
		return fmt.Sprintf("%s; fell back to %s, healthy at %s%s.", cause, to, s.at(b.Ended), s.since(b)), next
	}
	return fmt.Sprintf("%s; fell back to %s, which was healthy here before and failed as well: %s. Check the machine "+
		"and what it depends on rather than the images.",
		cause, to, causeOf(b, s).on(1)), next
}

// failures explains attempts that failed: with one cause when they are alike.
func (s Story) failures(list []fleet.Failure) (c cause, attempts int) {
	for _, f := range list {
		of := cause{what: f.Reason, next: "ingot boots " + s.Machine.Hostname()}
		if i := slices.IndexFunc(s.Boots, func(b fleet.Boot) bool { return b.ID == f.Boot }); i >= 0 {
			of = causeOf(s.Boots[i], s)
		}
		switch {
		case attempts == 0 || alike(c, of):
			c = of // the times of the latest
			attempts++
		default:
			return cause{c.on(attempts) + "; then " + of.on(1), "", of.next}, 1
		}
	}
	return c, attempts
}

// alike compares causes without their numbers.
func alike(a, b cause) bool {
	drop := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' {
				return -1
			}
			return r
		}, s)
	}
	what := func(c cause) string { w, _, _ := strings.Cut(c.what, " for "); return drop(w) }
	return what(a) == what(b) && drop(a.means) == drop(b.means)
}

// ordinary explains a machine that boots what it is assigned.
func (s Story) ordinary(b fleet.Boot) (string, []string) {
	m, host := s.Machine, s.Machine.Hostname()
	pending := ""
	if b.Image.Image != m.Assignment.Image {
		pending = fmt.Sprintf(" %s has been assigned since %s and boots at the next reboot.", m.Assignment.Name,
			s.at(m.Assignment.Since))
		if s.Unservable != "" {
			pending = fmt.Sprintf(" %s has been assigned since %s, but cannot be served: %s.", m.Assignment.Name,
				s.at(m.Assignment.Since), s.Unservable)
		}
	}
	switch {
	case b.Outcome == ingot.OutcomeWaiting || (b.Image.Image == "" && !b.Open()):
		return fmt.Sprintf("%s was waiting for an operator when it last booted, at %s; it will get %s when it boots again.",
			host, s.at(b.Started), m.Assignment.Name), nil
	case b.Outcome == ingot.OutcomeHealthy:
		return s.healthy(b, pending)
	case b.Open():
		words := fmt.Sprintf("Boots %s now: %s.", imageOr(b.Image, m.Assignment.ImageRef), s.progress(b))
		if e, bad := lastError(b); bad {
			c := reported(b, e, s)
			return sentence(c.on(1)) + "; the machine tries again. " + words, []string{c.next}
		}
		if stuck(b, s.Now) {
			c := causeOf(b, s)
			return stop(sentence(c.on(1))) + " " + words, []string{c.next}
		}
		return words, nil
	}
	return s.failing(b, pending)
}

func imageOr(a, b fleet.ImageRef) string {
	if a.Name != "" {
		return a.Name
	}
	return b.Name
}

// stuck reports whether a boot has been longer at its stage than it should.
func stuck(b fleet.Boot, now time.Time) bool {
	if len(b.Events) == 0 {
		return false
	}
	if noLoader(b) {
		return true // nothing will come
	}
	quiet := now.Sub(b.Events[len(b.Events)-1].At)
	if b.Stage().Rank() < ingot.StageScript.Rank() {
		return quiet > 30*time.Second
	}
	return quiet > 2*time.Minute
}

// progress says how far a boot is.
func (s Story) progress(b fleet.Boot) string {
	text := fmt.Sprintf("stage %s, %s after its first packet", b.Stage(), span(s.Now.Sub(b.Started)))
	if b.Stage() == ingot.StageTicket && s.Needed[b.Image.Image]["root"] > 0 {
		text += ", " + partly("root", b, s)
	}
	return text
}

// since is what a healthy machine said, or did not say, after it was healthy.
func (s Story) since(b fleet.Boot) string {
	if quiet := s.Now.Sub(s.Machine.LastSeen); quiet > Quiet {
		return fmt.Sprintf(", but has not been heard from for %s: it is off, hangs, or cannot reach this server", span(quiet))
	}
	if b.Report == nil {
		return ""
	}
	for _, k := range b.Report.Checks {
		if !k.OK {
			return fmt.Sprintf(", but check %s fails now: %s", k.Name, k.Detail)
		}
	}
	return ""
}

func (s Story) healthy(b fleet.Boot, pending string) (string, []string) {
	after := s.since(b)
	words := fmt.Sprintf("Healthy on %s since %s%s.", b.Image.Name, s.at(b.Ended), after)
	if after == "" {
		words = fmt.Sprintf("Healthy on %s since %s, %s after its first packet.", b.Image.Name, s.at(b.Ended),
			span(b.Ended.Sub(b.Started)))
	}
	if n := len(s.Boots); n > 1 && s.Boots[n-2].Image.Image == b.Image.Image && bad(s.Boots[n-2]) {
		words += fmt.Sprintf(" The boot before failed: %s.", causeOf(s.Boots[n-2], s).on(1))
	}
	var next []string
	if after != "" {
		next = []string{"ingot console " + s.Machine.Hostname()}
	}
	return words + pending, next
}

func bad(b fleet.Boot) bool {
	return b.Outcome == ingot.OutcomeFailed || b.Outcome == ingot.OutcomeSilent
}

// failing explains a boot that failed, and says what comes next.
func (s Story) failing(b fleet.Boot, pending string) (string, []string) {
	m := s.Machine
	c, attempts := s.failures(m.Trial.Failures)
	if attempts == 0 || m.Trial.Failures[len(m.Trial.Failures)-1].Boot != b.ID {
		c, attempts = causeOf(b, s), 1
	}
	next := []string{c.next, "ingot boots " + m.Hostname() + " --timeline"}
	words := sentence(c.on(attempts))
	if pending != "" {
		return stop(words) + pending, next
	}
	name, left := b.Image.Name, s.Policy.Limit()-len(m.Trial.Failures)
	switch {
	case s.Policy.After == fleet.AfterRetry || b.Image.Image == m.LastHealthy.Image:
		last := ""
		if m.LastHealthy.Image == b.Image.Image {
			last = ", since it was the last healthy image on this machine"
		}
		return fmt.Sprintf("%s %s is tried again%s.", stop(words), name, last), next
	case left > 0 && s.Policy.After != fleet.AfterHold && m.LastHealthy.Image != "":
		return fmt.Sprintf("%s %s is tried %s more, then the machine falls back to %s.", stop(words), name, fleet.Times(left),
			m.LastHealthy.Name), next
	case left > 0:
		return fmt.Sprintf("%s %s is tried %s more, then the machine is held for an operator.", stop(words), name,
			fleet.Times(left)), next
	}
	return stop(words), next
}

// changes says what is other hardware since the machine was last healthy.
func (s Story) changes() string {
	var list []string
	for _, b := range slices.Backward(s.Boots) {
		list = append(slices.Clone(b.Changes), list...)
		if b.Outcome == ingot.OutcomeHealthy {
			break
		}
	}
	if len(list) == 0 {
		return ""
	}
	return "Its hardware changed: " + strings.Join(list, "; ") + "."
}

// sentence begins with a capital letter.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// stop ends a sentence that is not a question.
func stop(s string) string {
	if strings.HasSuffix(s, "?") || strings.HasSuffix(s, ".") {
		return s
	}
	return s + "."
}
