package bootserver

import (
	"bytes"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
	"ingot/image"
)

// operates is an operator's command about a machine. What an operator says
// counts at once, and what is refused changes nothing.
func (s *history) operates(t *rapid.T) {
	m, known := s.machine(s.any(t))
	if !known {
		s.imports(t)
		return
	}
	before := s.copy()
	command := draw(t, []string{"approve", "approve", "approve image", "assign", "assign", "rollback", "resume",
		"retire", "forget",
		"rename", "label", "merge", "grant", "import", "once", "once", "cancel once"}, "command")
	ref, name := string(m.ID), draw(t, s.names, "image")
	var after fleet.Machine
	var answer api.Machine
	var err error
	var then func()
	switch command {
	case "approve":
		answer, err = s.operator.Approve(t.Context(), ref, api.ApproveRequest{})
		then = func() { s.said(after) }
	case "approve image":
		answer, err = s.operator.Approve(t.Context(), ref, api.ApproveRequest{Image: name})
		then = func() { s.ordered(after) }
	case "assign":
		answer, err = s.operator.Assign(t.Context(), ref, api.AssignRequest{Image: name})
		then = func() { s.ordered(after) }
	case "rollback":
		answer, err = s.operator.Rollback(t.Context(), ref, false)
		then = func() { s.ordered(after) }
	case "resume":
		answer, err = s.operator.Resume(t.Context(), ref)
		then = func() { s.ordered(after) }
	case "once":
		answer, err = s.operator.Once(t.Context(), ref, api.OnceRequest{
			Image:     draw(t, []string{name, name, ""}, "once"),
			Arguments: draw(t, [][]string{nil, {"debug"}, {"init=/bin/sh"}}, "arguments"), Shell: rapid.Bool().Draw(t, "shell")})
		then = func() { s.said(after) }
	case "cancel once":
		answer, err = s.operator.CancelOnce(t.Context(), ref)
		then = func() { s.said(after) }
	case "retire":
		answer, err = s.operator.Retire(t.Context(), ref)
		then = func() { s.said(after) }
	case "rename":
		answer, err = s.operator.Rename(t.Context(), ref, draw(t, []string{"", "a", "b", "Bad Name"}, "name"))
		then = func() {}
	case "label":
		answer, err = s.operator.Label(t.Context(), ref,
			api.LabelRequest{Set: map[string]string{"rack": draw(t, []string{"r1", "r2"}, "rack")}})
		then = func() {}
	case "grant":
		answer, err = s.operator.Grant(t.Context(), ref, api.GrantRequest{Volume: "data",
			Disk: draw(t, []string{"", "S1"}, "disk"), For: time.Hour, Force: true})
		then = func() {}
	default:
		map[string]func(*rapid.T, fleet.Machine, []byte){"forget": s.forgets, "merge": s.merges,
			"import": func(t *rapid.T, _ fleet.Machine, _ []byte) { s.imports(t) }}[command](t, m, before)
		return
	}
	if err != nil {
		s.unchanged(before, command+", which was refused")
		return
	}
	after, _ = s.state.Machine(m.ID)
	if !bytes.Equal(mustJSON(t, answer), mustJSON(t, after)) {
		t.Fatalf("%s is answered with\n%s\nand known is\n%s", command, mustJSON(t, answer), mustJSON(t, after))
	}
	if image := after.Assignment.Image; image != m.Assignment.Image && command != "rollback" && !s.servable(image) {
		t.Fatalf("%s of %s, which cannot be served, is taken", command, name)
	}
	then()
	keeps := slices.Contains([]string{"approve", "rename", "label", "grant"}, command)
	if (command == "once") != (after.Once != nil) && !keeps {
		t.Fatalf("%s leaves for one boot: %+v", command, after.Once)
	}
	if o := after.Once; command == "once" && (!s.servable(o.Image) || len(o.Arguments) > 0 && !s.able(o.Image)) {
		t.Fatalf("%s once, which cannot be served or cannot verify arguments, is taken", o)
	}
	if command == "resume" && after.Setback != nil || command == "retire" && after.State != fleet.Retired ||
		strings.HasPrefix(command, "approve") && after.State != fleet.Approved {
		t.Fatalf("%s leaves %+v", command, after)
	}
}

// looks: an operator decides one boot of a machine, and the machine boots, twice. What becomes of the
// first boot changes nothing but that it is over.
func (s *history) looks(t *rapid.T) {
	c := s.any(t)
	m, known := s.machine(c)
	images := slices.DeleteFunc(slices.Clone(s.names), func(n string) bool { return !s.servable(s.kept[n].Digest) })
	if !known || len(images) == 0 {
		return
	}
	q := api.OnceRequest{Image: draw(t, images, "image")}
	if s.able(s.kept[q.Image].Digest) && rapid.Bool().Draw(t, "with arguments") {
		q.Arguments, q.Shell = []string{"debug"}, true
	}
	if _, err := s.operator.Once(t.Context(), string(m.ID), q); err != nil {
		t.Fatalf("one boot of %s: %v", q.Image, err)
	}
	after, _ := s.state.Machine(m.ID)
	s.said(after)
	if rapid.Bool().Draw(t, "switched off") {
		s.knocks(c)
	}
	s.boots(t, c)
	before, _ := s.machine(c)
	switch draw(t, []string{"good", "fail", "unwell", "silent", "reset"}, "how") {
	case "good":
		s.reports(c, true, true)
	case "fail":
		s.fails(c)
	case "unwell":
		s.reports(c, false, true)
	case "silent":
		s.passes(2 * fleet.OnceLimit)
	}
	s.recordsHold()
	if b, _ := s.state.Boot(c.boot); b.Once != nil {
		now, _ := s.state.Machine(b.Machine)
		now.LastSeen, now.Grants = before.LastSeen, slices.Clone(now.Grants)
		for i, g := range before.Grants { // one may expire meanwhile
			if i < len(now.Grants) && !s.clock.Before(g.Expires) {
				now.Grants[i].Over = g.Over
			}
		}
		if got, want := mustJSON(t, now), mustJSON(t, before); !bytes.Equal(got, want) {
			t.Fatalf("what became of one boot changed\n%s\nto\n%s", want, got)
		}
	}
	s.boots(t, c)
}

// forgets: the machine is a strangeKey, and the keys of its boots open nothing.
func (s *history) forgets(t *rapid.T, m fleet.Machine, before []byte) {
	force := rapid.Bool().Draw(t, "force")
	gone, err := s.operator.Forget(t.Context(), string(m.ID), force)
	if refuse := m.State == fleet.Approved && !force; refuse != (err != nil) {
		t.Fatalf("forgetting a machine that is %s, by force: %t: %v", m.State, force, err)
	} else if refuse {
		s.unchanged(before, "forget, which was refused")
		return
	}
	delete(s.lives, gone.ID)
	if _, there := s.state.Machine(gone.ID); there {
		t.Fatalf("%s is forgotten, and there", gone.ID)
	}
	if boots, err := s.state.Boots(gone.ID, 0); err != nil || len(boots) != 0 {
		t.Fatalf("%s is forgotten, and has boots: %v %v", gone.ID, boots, err)
	}
	if gone.Boot == "" {
		return
	}
	for _, q := range bootRequests(gone.Boot, s.kept[s.names[0]].Image) {
		if status, text := s.ask(q.method, s.BootKey(gone.Boot), q.part, q.body); status != 404 {
			t.Fatalf("%s %s of a machine that is forgotten = %d %s", q.method, q.part, status, text)
		}
	}
	if _, err := s.Script(gone.Boot, base); err == nil || !is(err, httpboot.ErrUnknown) {
		t.Fatalf("the script of a machine that is forgotten: %v", err)
	}
}

// merges a machine into another one.
func (s *history) merges(t *rapid.T, from fleet.Machine, before []byte) {
	all := s.state.Machines()
	into := all[draw(t, indices(len(all)), "into")]
	if from.Ask != nil && draw(t, indices(4), "as asked") > 0 {
		if with, known := s.state.Machine(from.Ask.With); known { // it may be forgotten
			into = with
		}
	}
	_, err := s.operator.Merge(t.Context(), string(from.ID), string(into.ID), true)
	if refuse := from.ID == into.ID || from.State == fleet.Approved; refuse != (err != nil) {
		t.Fatalf("merging %s, %s, into %s, %s: %v", from.ID, from.State, into.ID, into.State, err)
	} else if refuse {
		s.unchanged(before, "merge, which was refused")
		return
	}
	after, _ := s.state.Machine(into.ID)
	if after.State != into.State || after.Assignment != into.Assignment || after.LastHealthy != into.LastHealthy {
		t.Fatalf("merging gives\n%+v\nof\n%+v", after, into)
	}
	delete(s.lives, from.ID)
	s.said(after).word = ""
	s.mixed = s.mixed || from.Ask == nil || from.Ask.With != into.ID
}

// imports a list of what may be known already.
func (s *history) imports(t *rapid.T) {
	c := s.any(t)
	p := api.Planned{Name: draw(t, []string{"a", "b", "c"}, "name"), MACs: []string{c.MAC}, UUID: c.UUID,
		Image: draw(t, append(slices.Clone(s.names), "", ""), "image"), Pending: rapid.Bool().Draw(t, "pending")}
	before, was := s.copy(), map[ingot.MachineID]fleet.Machine{}
	for _, m := range s.state.Machines() {
		was[m.ID] = m
	}
	dry := rapid.Bool().Draw(t, "dry")
	done, err := s.operator.Import(t.Context(), api.ImportRequest{Machines: []api.Planned{p}, DryRun: dry})
	if err != nil || dry {
		s.unchanged(before, fmt.Sprintf("an import (dry: %t, %v)", dry, err))
		return
	}
	for _, a := range done.Actions {
		m, _ := s.state.Machine(a.Machine)
		old, known := was[m.ID]
		if known && old.State == fleet.Retired && m.State != fleet.Retired {
			t.Fatalf("an import makes %s, which was retired, %s", m.ID, m.State)
		}
		if s.said(m); m.Assignment != old.Assignment {
			s.ordered(m)
		}
	}
}

// shelves changes what is in the store, and who is trusted.
func (s *history) changesImages(t *rapid.T) {
	i := s.kept[draw(t, s.names, "image")]
	keys := filepath.Join(s.dir, "keys")
	switch draw(t, []string{"remove", "remove", "add", "add", "sign", "trust", "distrust"}, "what") {
	case "remove":
		s.removes(t, i)
	case "add":
		if !i.here {
			putImage(s.outer, s.images, s.keyring[i.signer], i.Name.Version)
			i.here = true
		}
	case "sign":
		if i.here {
			i.signer = draw(t, []string{ownKey, ownKey, strangeKey}, "signer")
			s.signed++
			text := s.keyring[i.signer].Release.Secret.Sign(i.OCI, fmt.Sprint("signature ", s.signed))
			if _, err := s.images.AddReferrer(t.Context(), i.Digest,
				image.Attachment{Type: ingot.ArtifactSignature, Media: ingot.ArtifactSignature,
					Content: strings.NewReader(text)}); err != nil {
				t.Fatal(err)
			}
		}
	case "trust":
		if err := image.Trust(keys, strangeKey, s.keyring[strangeKey].Release.Public); err != nil {
			t.Fatal(err)
		}
		s.trusted[strangeKey] = true
	case "distrust":
		if err := image.Distrust(keys, strangeKey); (err == nil) != s.trusted[strangeKey] {
			t.Fatal(err)
		}
		s.trusted[strangeKey] = false
	}
	for _, i := range s.kept {
		if s.catalog.Servable(i.Digest) != s.servable(i.Digest) {
			t.Fatalf("%s, here: %t, signed by %s, trusted are %v: have = %t", i.Name, i.here, i.signer, s.trusted,
				s.catalog.Servable(i.Digest))
		}
	}
}

// removes takes an image out of the store, unless something needs it.
func (s *history) removes(t *rapid.T, i *kept) {
	if !i.here {
		return
	}
	used := fleet.InUse(s.state.Machines(), s.state.Latest())
	if rapid.Bool().Draw(t, "by force") {
		used = nil
	}
	if _, err := s.images.Remove(t.Context(), string(i.Digest), used); (err == nil) != (used[i.Digest] == "") {
		t.Fatalf("removing an image that is in use as %q: %v", used[i.Digest], err)
	} else if err == nil {
		i.here = false
	}
}

// remembered is a backup, and what the observer knew then.
type remembered struct {
	file  []byte
	lives map[ingot.MachineID]*life
}

func (s *history) backsUp() {
	s.backups = append(s.backups[max(0, len(s.backups)-2):], remembered{s.copy(), copyLives(s.lives)})
}

// restores an older backup, by an operator's word: what was learned since is
// unlearned, and boots that began since are unknown.
func (s *history) restores(t *rapid.T) {
	if len(s.backups) == 0 {
		return
	}
	r := s.backups[draw(t, indices(len(s.backups)), "backup")]
	if _, err := s.operator.Restore(t.Context(), bytes.NewReader(r.file)); err != nil {
		t.Fatal(err)
	}
	s.lives = copyLives(r.lives)
	for _, m := range s.state.Machines() {
		s.said(m)
	}
	for id := range maps.Keys(s.lives) {
		if _, known := s.state.Machine(id); !known {
			t.Fatalf("%s was in the backup, and is not known", id)
		}
	}
}
