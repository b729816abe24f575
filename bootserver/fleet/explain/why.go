// Package explain describes the state of a machine in plain sentences, as shown by
// ingot why. From the machine, its latest boots and the DHCP packets of other servers
// it derives the most likely cause, and the next steps for an operator. It also finds the
// line of a kernel log that gives the reason of a crash.
//
// It makes no decisions and stores nothing; see package fleet for that.
package explain

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/advice"
	"ingot/bootserver/fleet"
)

// Sizes are the bytes of an image by artifact: kernel, initramfs, root.
type Sizes map[string]int64

// Story is the input of an explanation.
type Story struct {
	Machine    fleet.Machine
	Boots      []fleet.Boot           // the latest ones, oldest first
	Needed     map[ingot.Digest]Sizes // of the images of these boots, if they are in the store
	First      string                 `json:",omitempty"` // image that the policy gives an approved machine without one
	Unservable string                 // why the image to boot cannot be served; empty if it can
	Untrusted  bool                   `json:",omitempty"` // the reason is its signature
	Absent     bool                   `json:",omitempty"` // the reason is that the store does not have it
	Most       Hardware               `json:",omitzero"`  // of the boot of these with the most memory
	Sending    map[string]int64       `json:",omitempty"` // bytes of the transfers under way to the latest boot, by part
	Others     []fleet.Other          // DHCP servers that answered the machine, sorted by fleet.ByWeight
	Policy     fleet.Policy
	Served     time.Time `json:",omitzero"` // when the server started; it heard nothing before
	Now        time.Time // in the operator's time zone
}

// Why explains the state of a machine in one paragraph, the cause first. next are
// what an operator can do next, the most useful step first.
func Why(s Story) (words string, next []advice.Step) {
	// Boots after the machine's own were begun in its name while it ran, see fleet.Claim.
	if i := slices.IndexFunc(s.Boots, func(b fleet.Boot) bool { return b.ID == s.Machine.Boot }); i >= 0 {
		s.Boots = s.Boots[:i+1]
	}
	words, next = s.state()
	if s.Machine.State == fleet.Pending && s.First != "" && s.Unservable != "" {
		words += fmt.Sprintf(" %s, which it is given when it is approved, cannot be served: %s.", s.First, s.Unservable)
		next = append(next, advice.New(advice.ListImages), advice.New(advice.ShowConfiguration))
	}
	if past, more := s.past(); past != "" && s.Machine.State == fleet.Approved {
		words += " " + past
		if more.Code != "" {
			next = append([]advice.Step{more}, next...)
		}
	}
	if said := s.once(); said != "" {
		words += " " + said
	}
	if said := s.ordered(); said != "" {
		words += " " + said
	}
	if said, more := s.trust(); said != "" {
		words += " " + said
		next = append(next, more...)
	}
	if changed := s.changes(); changed != "" && words != "" {
		words += " " + changed
	}
	if lost := stop(capitalize(s.lostMemory())); lost != "." && words != "" && !strings.Contains(words, lost) {
		words += " " + lost
	}
	return words, distinct(next)
}

// distinct removes repeated steps.
func distinct(list []advice.Step) (out []advice.Step) {
	for _, s := range list {
		if !slices.ContainsFunc(out, func(t advice.Step) bool { return t.Command() == s.Command() }) {
			out = append(out, s)
		}
	}
	return out
}

// unassigned explains an approved machine without an image.
func (s Story) unassigned(host string, assign advice.Step) (string, []advice.Step) {
	switch {
	case s.First == "":
		return fmt.Sprintf("%s is approved, but no image is assigned to it.", host), steps(assign)
	case s.Unservable == "":
		return fmt.Sprintf("%s is approved, and is given %s when it next asks what to boot.", host, s.First), nil
	}
	next := steps(advice.New(advice.VerifyImage, "image", s.First), assign)
	if s.Absent {
		profile, version, _ := strings.Cut(s.First, ":")
		next = steps(advice.New(advice.ListImages),
			advice.New(advice.BuildMissing, "profile", profile, "version", version), assign)
	}
	return fmt.Sprintf("%s is approved and waits for its first image. %s cannot be served: %s.", host, s.First,
		s.Unservable), next
}

// state is the paragraph without the machine's past and hardware changes.
func (s Story) state() (string, []advice.Step) {
	m, host := s.Machine, s.Machine.Hostname()
	approve, assign := s.step(advice.ApproveMachine), s.step(advice.AssignImage)
	b, booted := s.last()
	switch ref, err := fleet.Next(m); {
	case m.State == fleet.Retired:
		return fmt.Sprintf("%s is retired: it is not allowed to boot.", host), steps(approve)
	case m.State != fleet.Approved && m.Ask != nil:
		same, other := m.Ask.Answers(m)
		return fmt.Sprintf("%s It cannot boot until an operator answers whether it is the same machine.",
				stop(capitalize(m.Ask.What))),
			steps(same, other)
	case m.State != fleet.Approved && !booted:
		return fmt.Sprintf("%s has not booted yet and is waiting for approval.", host),
			steps(approve)
	case m.State != fleet.Approved:
		return fmt.Sprintf("%s has been waiting for approval since %s.", host, s.at(m.FirstSeen)),
			steps(advice.New(advice.AdmitMachine, "machine", string(m.ID)))
	case err != nil && m.Setback == nil:
		return s.unassigned(host, assign)
	case s.Unservable != "" && (!booted || !running(b)):
		next := steps(advice.New(advice.ListImages), assign)
		if ref, err := fleet.Next(m); err == nil && s.Untrusted {
			next = steps(advice.New(advice.VerifyImage, "image", ref.Name),
				advice.New(advice.TrustKey, "image", ref.Name), assign)
		}
		return fmt.Sprintf("The image for %s cannot be served: %s.", host, s.Unservable), next
	case m.Setback != nil:
		return s.setback()
	case !booted:
		return fmt.Sprintf("%s has not booted yet. It will boot %s.", host, ref.Name), nil
	}
	return s.ordinary(b)
}

// running reports whether a boot is in progress with an image, or became healthy.
func running(b fleet.Boot) bool {
	return b.Open() && b.Image.Image != "" || b.Outcome == ingot.OutcomeHealthy
}

// step makes a step about the machine of the story.
func (s Story) step(code advice.Code) advice.Step {
	return advice.New(code, "machine", s.Machine.Hostname())
}

// stepOf makes a step about the machine or the image of a boot.
func (s Story) stepOf(code advice.Code, b fleet.Boot) advice.Step {
	return advice.New(code, "machine", s.Machine.Hostname(), "image", b.Image.Name)
}

// consoleOf makes the step to the console of a boot that is not the latest one.
func (s Story) consoleOf(b fleet.Boot) advice.Step {
	return advice.New(advice.ShowConsole, "machine", s.Machine.Hostname(), "boot", b.ID.Short())
}

func steps(list ...advice.Step) []advice.Step { return list }

func (s Story) last() (fleet.Boot, bool) {
	if len(s.Boots) == 0 {
		return fleet.Boot{}, false
	}
	return s.Boots[len(s.Boots)-1], true
}

// at formats a time of day, with the date unless it is today.
func (s Story) at(t time.Time) string {
	t = t.In(s.Now.Location())
	if t.Format(time.DateOnly) == s.Now.Format(time.DateOnly) {
		return t.Format("15:04")
	}
	return t.Format("Jan 2 15:04")
}

// setback explains a machine that stopped trying its assigned image.
func (s Story) setback() (string, []advice.Step) {
	m := s.Machine
	c, attempts := s.failures(m.Setback.Failures)
	cause := capitalize(c.sentences(attempts)) + s.gaveUp(m.Setback.Failures)
	next := steps(c.next, s.step(advice.ResumeMachine))
	if m.Setback.To.Image == "" {
		return fmt.Sprintf("%s The machine has been held for an operator since %s: %s.", cause,
				s.at(m.Setback.At), m.Setback.Why),
			append(next, s.step(advice.AssignImage))
	}
	to := m.Setback.To.Name
	b, _ := s.last()
	switch {
	case b.Image.Image != m.Setback.To.Image:
		return fmt.Sprintf("%s The machine will fall back to %s at its next boot.", cause, to), next
	case b.Open():
		return fmt.Sprintf("%s The machine fell back to %s and is booting it now: %s.", cause, to, s.progress(b)), next
	case b.Outcome == ingot.OutcomeHealthy:
		return fmt.Sprintf("%s The machine fell back to %s and became healthy at %s%s.", cause, to,
			s.at(b.Ended), s.since(b)), next
	}
	return fmt.Sprintf("%s The machine fell back to %s, which was healthy here before but failed as well: %s Check the "+
		"machine and what it depends on, not the images.", cause, to, causeOf(b, s).sentences(1)), next
}

// failures explains failed attempts, with one cause if all are alike.
func (s Story) failures(list []fleet.Failure) (c cause, attempts int) {
	for _, f := range list {
		of := cause{what: f.Reason, next: s.step(advice.ShowBoots)}
		if b, known := s.boot(f.Boot); known {
			of = causeOf(b, s)
		}
		switch {
		case attempts == 0 || alike(c, of):
			c = of // the times of the latest
			attempts++
		default:
			return cause{c.sentences(attempts) + " The next attempt failed differently: " + of.sentences(1), "", of.next}, 1
		}
	}
	return c, attempts
}

// boot returns a boot of the story.
func (s Story) boot(id ingot.BootID) (fleet.Boot, bool) {
	i := slices.IndexFunc(s.Boots, func(b fleet.Boot) bool { return b.ID == id })
	if i < 0 {
		return fleet.Boot{}, false
	}
	return s.Boots[i], true
}

// gaveUp is the function gaveUp for failed attempts.
func (s Story) gaveUp(list []fleet.Failure) string {
	if len(list) == 0 {
		return ""
	}
	b, _ := s.boot(list[len(list)-1].Boot)
	return gaveUp(b, len(list))
}

var quietSpan = regexp.MustCompile(` for [0-9]+ (s|min|h|days)$`)

// alike compares causes without their numbers and times.
func alike(a, b cause) bool {
	drop := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' {
				return -1
			}
			return r
		}, s)
	}
	what := func(c cause) string { return drop(quietSpan.ReplaceAllString(c.what, "")) }
	means := func(c cause) string { return drop(quietSpan.ReplaceAllString(c.means, "")) }
	return what(a) == what(b) && means(a) == means(b)
}

// ordinary explains a machine that boots its assigned image.
func (s Story) ordinary(b fleet.Boot) (string, []advice.Step) {
	m, host := s.Machine, s.Machine.Hostname()
	pending := ""
	if b.Image.Image != m.Assignment.Image && b.Once == nil && m.Once == nil {
		pending = fmt.Sprintf(" %s has been assigned since %s and will boot at the next restart.", m.Assignment.Name,
			s.at(m.Assignment.Since))
		if s.Unservable != "" {
			pending = fmt.Sprintf(" %s has been assigned since %s, but cannot be served: %s.", m.Assignment.Name,
				s.at(m.Assignment.Since), s.Unservable)
		}
	}
	switch {
	case b.Outcome == ingot.OutcomeWaiting || (b.Image.Image == "" && !b.Open()):
		next := m.Assignment.ImageRef
		if ref, err := fleet.Next(m); err == nil {
			next = ref
		}
		return fmt.Sprintf("%s was waiting for an operator when it last booted, at %s. It will boot %s next time.",
			host, s.at(b.Started), next.Name), nil
	case b.Outcome == ingot.OutcomeHealthy:
		return s.healthy(b, pending)
	case b.Open():
		words := fmt.Sprintf("Booting %s now: %s.", imageOr(b.Image, m.Assignment.ImageRef), s.progress(b))
		e, bad := lastError(b)
		switch {
		case bad && inShell(b):
			c := reported(b, e, s)
			return capitalize(c.sentences(1)) + " " + s.shell(b, "tries again"), steps(c.next)
		case inShell(b):
			return s.shell(b, "goes on with the boot"), steps(s.step(advice.ShowTimeline))
		case bad && e.Retry:
			c := reported(b, e, s)
			return capitalize(c.sentences(1)) + retrying(b) + " " + words, steps(c.next)
		case s.stuck(b):
			c := causeOf(b, s)
			return capitalize(c.sentences(1)) + " " + words, steps(c.next)
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

// stuck reports whether a boot has been at its stage for longer than expected.
func (s Story) stuck(b fleet.Boot) bool {
	if len(b.Events) == 0 || len(s.Sending) > 0 {
		return false
	}
	if noLoader(b) {
		return true // nothing will come
	}
	quiet := s.Now.Sub(b.Events[len(b.Events)-1].At)
	if b.Stage().Rank() < ingot.StageScript.Rank() {
		return quiet > 30*time.Second
	}
	return quiet > 2*time.Minute
}

// progress says which stage a boot has reached.
func (s Story) progress(b fleet.Boot) string {
	text := fmt.Sprintf("stage %s, %s after its first packet", b.Stage(), span(s.Now.Sub(b.Started)))
	if sent := s.sent(b); sent != "" {
		return text + "; " + sent
	}
	if b.Stage() == ingot.StageTicket && s.Needed[b.Image.Image]["root"] > 0 {
		text += "; " + partly("root", b, s)
	}
	return text
}

// since says what is wrong with a machine that became healthy; empty if nothing is.
func (s Story) since(b fleet.Boot) string {
	if is, means := s.quiet(b); is != "" {
		return prefixed(", but has been ", is) + prefixed(". ", strings.TrimSuffix(means, "."))
	}
	if b.Report == nil {
		return ""
	}
	for _, k := range b.Report.Checks {
		if !k.OK {
			return fmt.Sprintf(", but check %s now fails: %s", k.Name, k.Detail) +
				prefixed("; ", overlayText(*b.Report))
		}
	}
	return prefixed(", but ", overlayText(*b.Report))
}

func (s Story) healthy(b fleet.Boot, pending string) (string, []advice.Step) {
	after := s.since(b)
	words := fmt.Sprintf("Healthy on %s since %s%s.", b.Image.Name, s.at(b.Ended), after)
	is, means := s.quiet(b)
	switch {
	case is != "":
		words = fmt.Sprintf("%s. It ran %s, healthy since %s%s. %s", capitalize(is), b.Image.Name, s.at(b.Ended),
			lastReport(b), means)
	case after == "":
		words = fmt.Sprintf("Healthy on %s since %s, %s after its first packet.", b.Image.Name, s.at(b.Ended),
			span(b.Ended.Sub(b.Started)))
	}
	volumes, next := s.volumes(b)
	words += volumes
	if n := len(s.Boots); n > 1 && s.Boots[n-2].Image.Image == b.Image.Image && bad(s.Boots[n-2]) {
		words += fmt.Sprintf(" The previous boot failed: %s", causeOf(s.Boots[n-2], s).sentences(1))
	}
	if after != "" {
		next = append(next, s.step(advice.ShowConsole))
	}
	if is != "" {
		next = append(next, advice.New(advice.ShowNetwork))
	}
	return words + pending, next
}

func bad(b fleet.Boot) bool {
	return b.Outcome == ingot.OutcomeFailed || b.Outcome == ingot.OutcomeSilent
}

// failing explains a boot that failed, and says what the machine will do next.
func (s Story) failing(b fleet.Boot, pending string) (string, []advice.Step) {
	m := s.Machine
	c, attempts := s.failures(m.Trial.Failures)
	if attempts == 0 || m.Trial.Failures[len(m.Trial.Failures)-1].Boot != b.ID {
		c, attempts = causeOf(b, s), 1
	}
	next := steps(c.next, s.step(advice.ShowTimeline))
	words := capitalize(c.sentences(attempts)) + gaveUp(b, attempts)
	if pending != "" || b.Once != nil {
		return words + pending, next
	}
	name, left := b.Image.Name, s.Policy.Limit()-len(m.Trial.Failures)
	switch {
	case fleet.Blameless(b):
		return fmt.Sprintf("%s The machine will try %s again.", words, name), next
	case s.Policy.After == fleet.AfterRetry || b.Image.Image == m.LastHealthy.Image:
		last := ""
		if m.LastHealthy.Image == b.Image.Image {
			last = ", because it was the last healthy image on this machine"
		}
		return fmt.Sprintf("%s The machine will try %s again%s.", words, name, last), next
	case left > 0 && s.Policy.After != fleet.AfterHold && m.LastHealthy.Image != "":
		return fmt.Sprintf("%s The machine will try %s %s more, then fall back to %s.", words, name, fleet.Times(left),
			m.LastHealthy.Name), next
	case left > 0:
		return fmt.Sprintf("%s The machine will try %s %s more, then it will be held for an operator.", words, name,
			fleet.Times(left)), next
	}
	return words, next
}

// changes lists the hardware changes since the machine was last healthy.
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

// once says what one boot does other than the assignment says: the latest one, or the next one.
func (s Story) once() string {
	m := s.Machine
	if m.State != fleet.Approved {
		return ""
	}
	if o := m.Once; o != nil {
		m.Once = nil
		return fmt.Sprintf("At its next restart it boots %s once, as was decided at %s; after that %s.", o, s.at(o.Since),
			as(m, "it boots"))
	}
	b, booted := s.last()
	if !booted || b.Once == nil {
		return ""
	}
	return fmt.Sprintf("Only this boot is of %s; at its next restart %s.", b.Once, as(m, "the machine boots"))
}

// as says what a machine boots as its assignment says: "it boots lab:v1 as before".
func as(m fleet.Machine, boots string) string {
	if ref, err := fleet.Next(m); err == nil {
		return boots + " " + ref.Name + " as before"
	}
	return "it waits for an image"
}

// capitalize makes the first letter a capital.
func capitalize(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// stop ends a sentence with a full stop, unless it has an end.
func stop(s string) string {
	if strings.HasSuffix(s, "?") || strings.HasSuffix(s, ".") {
		return s
	}
	return s + "."
}
