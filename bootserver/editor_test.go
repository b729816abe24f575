package bootserver

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/booter"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/image"
)

// TestImagesInUseStay: what a machine is assigned, or the configuration gives
// to new ones, is neither removed nor collected; what goes, and who did it, is
// in the audit log.
func TestImagesInUseStay(t *testing.T) {
	s := newStreet(t)
	for _, v := range []string{"v1", "v2", "v3", "v4", "v5"} {
		s.put(v)
	}
	s.ask()
	if _, err := s.api.Approve(t.Context(), machineID,
		api.ApproveRequest{Name: "node01", Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	s.SetPolicy(booter.Policy{Rules: []fleet.Rule{{MAC: "52:54:00:*", Approve: true, Image: "lab:v2"}}})
	c := s.caller("an administrator", s.token("ops", access.Admin), "")
	for ref, why := range map[string]string{"lab:v1": "node01 is assigned it",
		"lab:v2": "the configuration gives lab:v2 to new machines"} {
		status, header, text := c.ask(t, "DELETE", "/v1/images/"+ref, "")
		wantProblem(t, "removing "+ref, status, header, text, http.StatusConflict)
		if !strings.Contains(string(text), why) {
			t.Errorf("removing %s: %s; want it to say that %s", ref, text, why)
		}
	}
	s.SetPolicy(booter.Policy{Image: "lab", Rules: []fleet.Rule{{MAC: "52:54:00:*", Approve: true, Image: "lab:v2"}}})
	if status, header, text := c.ask(t, "DELETE", "/v1/images/lab:v5", ""); status != http.StatusConflict {
		t.Errorf("removing the newest of a profile that the configuration names = %d %v %s; want a conflict", status,
			header, text)
	}
	s.SetPolicy(booter.Policy{Rules: []fleet.Rule{{MAC: "52:54:00:*", Approve: true, Image: "lab:v2"}}})
	if status, _, text := c.ask(t, "DELETE", "/v1/images/lab:v3", ""); status != 200 {
		t.Errorf("removing what nobody needs = %d %s", status, text)
	}
	audited := state.Query{Audit: true, Newest: true, Limit: 100}
	before, _, err := s.state.Changes(audited)
	if err != nil {
		t.Fatal(err)
	}
	planned, err := s.api.CollectImages(t.Context(), api.CollectRequest{Keep: 1, DryRun: true})
	if err != nil || fmt.Sprint(planned.Images) != "[lab:v4]" {
		t.Errorf("a dry collection = %+v, %v; want lab:v4", planned, err)
	}
	if after, _, err := s.state.Changes(audited); err != nil || len(after) != len(before) {
		t.Errorf("a dry collection left %d lines (%v)", len(after)-len(before), err)
	}
	done, err := s.api.CollectImages(t.Context(), api.CollectRequest{Keep: 1})
	if err != nil || fmt.Sprint(done.Images) != "[lab:v4]" || done.Bytes < planned.Bytes {
		t.Errorf("a collection = %+v, %v; dry it said %+v", done, err, planned)
	}
	list, err := s.api.Images(t.Context())
	if err != nil || len(list) != 3 || list[0].Name != "lab:v1" || list[0].InUse != "node01 is assigned it" ||
		list[2].InUse != "" || list[0].Needed["root"] != int64(len("root of v1")) {
		t.Errorf("images = %+v, %v; want v1 and v2, in use, and v5", list, err)
	}
	lines, _, err := s.state.Changes(state.Query{Audit: true, After: before[len(before)-2].Seq, Limit: 100})
	if err != nil || len(lines) != 3 {
		t.Fatalf("the audit log has %+v, %v; want a removal and a collection of two lines", lines, err)
	}
	if rm := lines[0]; rm.Code != fleet.ActionImageRemove || rm.Actor.Name != "ops" || rm.Name != "lab:v3" ||
		rm.From["image"] != "lab:v3" || !strings.HasPrefix(string(rm.Image.Image), "sha256:") {
		t.Errorf("the removal's line is %+v", rm)
	}
	if gc := lines[1]; gc.Code != fleet.ActionImageCollect || gc.Actor.Kind != string(access.Local) ||
		*gc.Actor.UID != os.Getuid() || gc.Name != "lab:v4" {
		t.Errorf("the collection's line is %+v", gc)
	}
	if all := lines[2]; all.Code != fleet.ActionImageCollect || all.To["bytes"] != float64(done.Bytes) {
		t.Errorf("the collection's last line is %+v; want %d bytes", all, done.Bytes)
	}
}

// TestAssignOrRemove: of an assignment and a removal of the same image at the
// same time, one comes first, and then the other is refused.
func TestAssignOrRemove(t *testing.T) {
	h := newHouse(t)
	h.ask()
	h.put("v0") // for the machine to be given in between; the tag keeps it
	if _, err := h.images.Tag(t.Context(), "lab:v0", "lab:base"); err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		im := h.put(fmt.Sprintf("w%d", i))
		if _, err := h.api.Assign(t.Context(), machineID, "lab:v0", ""); err != nil {
			t.Fatal(err)
		}
		var assigned, removed error
		var both sync.WaitGroup
		both.Go(func() { _, assigned = h.api.Assign(t.Context(), machineID, string(im.Digest), "") })
		both.Go(func() {
			if i%2 == 0 {
				_, removed = h.api.RemoveImage(t.Context(), string(im.Digest))
				return
			}
			var done api.Collected
			if done, removed = h.api.CollectImages(t.Context(), api.CollectRequest{Keep: 1}); len(done.Images) == 0 {
				removed = errors.New("it stayed")
			}
		})
		if i%2 == 1 { // it is not the newest, which would stay in any case
			h.put(fmt.Sprintf("x%d", i))
		}
		both.Wait()
		if assigned == nil && removed == nil && !h.catalog.Servable(im.Digest) {
			t.Fatalf("round %d: the image was assigned and removed", i)
		}
	}
}

// TestInterruptedRemovals: a removal that a crash left pending is recorded when its image is gone,
// and taken back when it is there. While it is pending, the image cannot be assigned.
func TestInterruptedRemovals(t *testing.T) {
	h := newHouse(t)
	v1, v2 := h.put("v1"), h.put("v2")
	h.ask()
	by := fleet.Actor{Kind: "token", Name: "ops"}
	if err := h.state.Update(func(tx state.Tx) error {
		for _, im := range []image.Image{v1, v2} {
			tx.PutRemoval(state.Removal{Image: im.Digest, Since: h.clock, By: by})
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var p api.Problem
	if _, err := h.api.Assign(t.Context(), machineID, "lab:v2", ""); !errors.As(err, &p) ||
		p.Status != http.StatusConflict {
		t.Errorf("assigning an image that is being removed: %v; want a conflict", err)
	}
	if _, err := h.images.Remove(t.Context(), "lab:v1", nil); err != nil {
		t.Fatal(err)
	}
	if err := h.server.editor().FinishRemovals(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines, _, err := h.state.Changes(state.Query{Audit: true, Limit: 100})
	if err != nil || len(lines) != 1 || lines[0].Code != fleet.ActionImageRemove || lines[0].Actor.Name != "ops" ||
		lines[0].Image.Image != v1.Digest {
		t.Errorf("the audit log has %+v, %v; want the removal of v1", lines, err)
	}
	if left := h.state.Removals(); len(left) != 0 {
		t.Errorf("pending are %+v; want none", left)
	}
	if _, err := h.api.Assign(t.Context(), machineID, "lab:v2", ""); err != nil {
		t.Errorf("assigning an image whose removal was taken back: %v", err)
	}
}

// TestTagsAndKeysAreNoted: who gave an image another name, or trusted a key, is
// in the audit log, from what to what; what changed nothing is not.
func TestTagsAndKeysAreNoted(t *testing.T) {
	h := newHouse(t)
	v1, v2 := h.put("v1"), h.put("v2")
	builder, err := image.LoadOrCreateKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx, key := t.Context(), string(builder.Release.Public.Text())
	for _, ref := range []string{"lab:v1", "lab:v2"} {
		if _, err := h.api.TagImage(ctx, ref, "lab:stable"); err != nil {
			t.Fatal(err)
		}
	}
	if im, err := h.api.UntagImage(ctx, "lab:stable"); err != nil || im.Digest != v2.Digest {
		t.Errorf("UntagImage = %+v, %v", im, err)
	}
	for range 2 { // again, as it is
		if k, err := h.api.TrustKey(ctx, api.KeyRequest{Name: "build1", Key: key}); err != nil ||
			k.ID != builder.Release.Public.ID() {
			t.Errorf("TrustKey = %+v, %v", k, err)
		}
	}
	if keys, err := image.TrustedKeys(filepath.Join(h.images.Root(), "keys")); err != nil || len(keys) != 2 {
		t.Errorf("trusted are %+v, %v", keys, err)
	}
	if _, err := h.api.DistrustKey(ctx, "build1", false); err != nil {
		t.Error(err)
	}
	if _, err := h.api.NoteImage(ctx, "lab:v1",
		api.NoteRequest{Did: "pull", With: "registry.example.com/lab:v1"}); err != nil {
		t.Error(err)
	}
	for what, f := range map[string]func() error{
		"another key under the same name": func() error { _, err := h.api.DistrustKey(ctx, "own", false); return err },
		"no key": func() error {
			_,
				err := h.api.TrustKey(ctx, api.KeyRequest{Name: "x", Key: "hunter2"})
			return err
		},
		"no tag": func() error { _, err := h.api.UntagImage(ctx, "lab:v1"); return err },
		"a version as a tag": func() error {
			_,
				err := h.api.TagImage(ctx, "lab:v1", "lab:v2")
			return err
		},
		"a note of what is not there": func() error {
			_, err := h.api.NoteImage(ctx, "lab:v9", api.NoteRequest{Did: "pull"})
			return err
		},
	} {
		var p api.Problem
		if err := f(); !errors.As(err, &p) || p.Status >= 500 || p.Hint() == "" {
			t.Errorf("%s: %+v; want a problem with what to do", what, err)
		}
	}
	lines, _, err := h.state.Changes(state.Query{Audit: true, Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range lines {
		got = append(got, fmt.Sprint(l.Code, " ", l.Name, " ", l.From["image"], " ", l.To["image"]))
	}
	want := []string{"image.tag lab:stable <nil> lab:v1", "image.tag lab:stable lab:v1 lab:v2",
		"image.untag lab:stable lab:v2 <nil>",
		"key.trust build1 <nil> <nil>", "key.distrust build1 <nil> <nil>", "image.pull lab:v1 <nil> lab:v1"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the audit log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if l := lines[1]; l.From["digest"] != string(v1.Digest) || l.To["digest"] != string(v2.Digest) {
		t.Errorf("a tag that moved is %+v", l)
	}
}

// TestMergeIsNoted: what the machine was that became a part of another is in
// the line of the merge.
func TestMergeIsNoted(t *testing.T) {
	h := newHouse(t)
	h.crowd(2)
	if _, err := h.api.Label(t.Context(), "m-000000000001",
		api.LabelRequest{Set: map[string]string{"rack": "r1"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.api.Merge(t.Context(), "m-000000000001", "m-000000000000"); err != nil {
		t.Fatal(err)
	}
	last, _, err := h.state.Changes(state.Query{Audit: true, Newest: true, Limit: 1})
	if err != nil || last[0].Code != fleet.ActionMerge || last[0].From["from.id"] != "m-000000000001" ||
		last[0].From["from.labels.rack"] != "r1" || last[0].To["macs"] == nil {
		t.Errorf("the merge's line is %+v, %v; want what the merged machine was", last, err)
	}
}

// TestRuleOfAWaitingMachine: the image of a rule is looked for until a machine
// has it, not at each packet of one that waits for its approval.
func TestRuleOfAWaitingMachine(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	var said bytes.Buffer
	h.said.into(&said)
	p := h.Policy()
	p.Rules = []fleet.Rule{{MAC: "52:54:00:12:*", Image: "lab:v1"}}
	h.SetPolicy(p)
	h.seen(firstMachine)
	if m := h.known(machineID); m.State != fleet.Pending || m.Assignment.Name != "lab:v1" {
		t.Fatalf("by a rule: %+v", m)
	}
	if err := os.Rename(filepath.Join(h.images.Root(), "keys"), filepath.Join(h.images.Root(), "away")); err != nil {
		// whoever looks again says so
		t.Fatal(err)
	}
	h.seen(firstMachine)
	if strings.Contains(said.String(), "assigning a rule's image") {
		t.Errorf("the image is looked for again:\n%s", said.String())
	}
}
