package image

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot"
)

// note is an attachment of some text.
func note(kind, text string) Attachment {
	return Attachment{
		Type: kind, Media: "text/plain", Content: strings.NewReader(text), Annotations: map[string]string{"of": text},
	}
}

// TestReferrers: what is attached to an image is found again, does not change
// the image, comes once, survives a GC and a second Put, and goes with the image.
func TestReferrers(t *testing.T) {
	s := newStore(t, t.TempDir())
	im, other := s.mustPut(t, "1", "root"), s.mustPut(t, "2", "other")
	if _, err := s.AddReferrer(t.Context(), ingot.DigestOf(nil), note("x/note", "a")); !errors.Is(err, ErrNotFound) {
		t.Errorf("a referrer of nothing = %v; want %v", err, ErrNotFound)
	}
	var want []Referrer
	for _, text := range []string{"a", "b", "a"} {
		r, err := s.AddReferrer(t.Context(), im.Digest, note("x/note", text))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := s.ReadReferrer(r); err != nil || string(b) != text {
			t.Errorf("ReadReferrer = %q, %v; want %q", b, err, text)
		}
		want = append(want, r)
	}
	if _, err := s.AddReferrer(t.Context(), other.Digest, note("x/note", "a")); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		got, err := s.Referrers(t.Context(), im.Digest, "x/note")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want[:2], got); diff != "" {
			t.Errorf("%s: referrers (-want +got):\n%s", when, diff)
		}
		if all, err := s.Referrers(t.Context(), im.Digest, ""); err != nil || len(all) != 3 {
			t.Errorf("%s: %d referrers in all (%v); want 3, the signature among them", when, len(all), err)
		}
	}
	check("attached")
	again, err := s.Get(t.Context(), "lab:1")
	if err != nil || again.Digest != im.Digest || again.Signature != im.Signature {
		t.Errorf("the image became %s (%v)", again.Digest, err)
	}
	if _, err := s.GC(t.Context(), GCOptions{}); err != nil {
		t.Fatal(err)
	}
	check("after GC")
	s.mustPut(t, "1", "root")
	check("put again")
	if _, err := s.Remove(t.Context(), "lab:1", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GC(t.Context(), GCOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.Blob(want[1].Content.Digest)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the content of a referrer outlives its image: %v", err)
	}
	if list, err := s.Referrers(t.Context(), other.Digest, "x/note"); err != nil || len(list) != 1 {
		t.Errorf("the other image has %d referrers (%v); want 1", len(list), err)
	}
}

// TestPutAttaches: what comes with an image knows its digest and is there with it.
func TestPutAttaches(t *testing.T) {
	s := newStore(t, t.TempDir())
	s.attach = func(d ingot.Digest) ([]Attachment, error) { return []Attachment{note("x/note", string(d))}, nil }
	im := s.mustPut(t, "1", "root")
	s.mustPut(t, "1", "root")
	list, err := s.Referrers(t.Context(), im.Digest, "x/note")
	if err != nil || len(list) != 1 {
		t.Fatalf("Referrers = %v, %v; want one", list, err)
	}
	if b, err := s.ReadReferrer(list[0]); err != nil || string(b) != string(im.Digest) {
		t.Errorf("it says %q, %v; want the image's digest", b, err)
	}
	s.attach = func(ingot.Digest) ([]Attachment, error) { return nil, os.ErrPermission }
	if _, err := s.put(t.Context(), "2", "root"); !errors.Is(err, os.ErrPermission) {
		t.Errorf("Put whose attachments fail = %v; want %v", err, os.ErrPermission)
	}
	if got := names(t, s); !slices.Equal(got, []string{"lab:1"}) {
		t.Errorf("List = %v; want no image without its attachments", got)
	}
}

// TestVerifyReadsReferrers: damage to what refers to an image is found.
func TestVerifyReadsReferrers(t *testing.T) {
	for _, part := range []string{"content", "manifest"} {
		s := newStore(t, t.TempDir())
		im := s.mustPut(t, "1", "root")
		r, err := s.AddReferrer(t.Context(), im.Digest, note(ingot.ArtifactSBOM, "a"))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(t.Context(), im, s.keys.Release.Public); err != nil {
			t.Fatalf("Verify = %v; want nil", err)
		}
		blob := map[string]ingot.Digest{"content": r.Content.Digest, "manifest": r.Digest}[part]
		if err := os.WriteFile(s.Blob(blob), []byte("b"), 0o644); err != nil {
			t.Fatal(err)
		}
		err = s.Verify(t.Context(), im, s.keys.Release.Public)
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "SBOM") {
			t.Errorf("Verify with a damaged %s = %v; want %v of the SBOM", part, err, ErrDamaged)
		}
	}
}
