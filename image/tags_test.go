package image

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"ingot"
)

func names(t *testing.T, s stored) []string {
	t.Helper()
	images, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, im := range images {
		list = append(list, im.Name.String())
	}
	return list
}

func TestTagsMove(t *testing.T) {
	s := newStore(t, t.TempDir())
	one, two := s.mustPut(t, "1", "one"), s.mustPut(t, "2", "two")
	for _, im := range []Image{one, two} {
		got, err := s.Tag(t.Context(), im.Name.String(), "lab:stable")
		if err != nil || got.Digest != im.Digest {
			t.Fatalf("Tag(%s) = %s, %v", im.Name, got.Name, err)
		}
	}
	im, err := s.Get(t.Context(), "lab:stable")
	if err != nil || im.Digest != two.Digest || !slices.Equal(im.Tags, []string{"lab:stable"}) || im.Signature == "" {
		t.Errorf("lab:stable is %s %v (%v); want the second image, signed", im.Name, im.Tags, err)
	}
	if got := names(t, s); !slices.Equal(got, []string{"lab:1", "lab:2"}) {
		t.Errorf("List = %v; want each image once", got)
	}
	if _, err := s.Tag(t.Context(), "lab:1", "lab:2"); !errors.Is(err, ErrExists) {
		t.Errorf("a tag takes the place of a version: %v", err)
	}
	if _, err := s.Tag(t.Context(), "lab:1", "not a name"); err == nil {
		t.Error("Tag takes any name")
	}
	if err := s.Untag(t.Context(), "lab:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Untag of a version: %v", err)
	}
	if err := s.Untag(t.Context(), "lab:stable"); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(t.Context(), "lab:stable"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the tag is still there: %v", err)
	}
	// Putting the same image again keeps its tags.
	if _, err := s.Tag(t.Context(), "lab:1", "lab:old"); err != nil {
		t.Fatal(err)
	}
	s.mustPut(t, "1", "one")
	if im, err := s.Get(t.Context(), "lab:old"); err != nil || im.Digest != one.Digest {
		t.Errorf("the tag went when its image was put again: %v", err)
	}
}

func TestRemoveAndGC(t *testing.T) {
	s := newStore(t, t.TempDir())
	var images []Image
	for i, v := range []string{"1", "2", "3", "4"} {
		im := s.mustPut(t, v, "root of "+v)
		when := time.Unix(int64(1000+i), 0) // the age that decides
		if err := os.Chtimes(s.Blob(im.Digest), when, when); err != nil {
			t.Fatal(err)
		}
		images = append(images, im)
	}
	used := map[ingot.Digest]string{images[0].Digest: "node01 may fall back to it"}
	if _, err := s.Remove(t.Context(), "lab:1", used); !errors.Is(err, ErrInUse) {
		t.Errorf("an image in use is removed: %v", err)
	}
	if _, err := s.Tag(t.Context(), "lab:2", "lab:blessed"); err != nil {
		t.Fatal(err)
	}
	o := GCOptions{Keep: 1, InUse: used, DryRun: true}
	planned, err := s.GC(t.Context(), o)
	if err != nil || len(planned.Images) != 1 || planned.Images[0].Name.Version != "3" || planned.Bytes == 0 {
		t.Fatalf("GC, dry: %+v, %v; want the third image alone", planned, err)
	}
	if got := names(t, s); len(got) != 4 {
		t.Errorf("a dry GC left %v", got)
	}
	o.DryRun = false
	done, err := s.GC(t.Context(), o)
	if err != nil || done.Bytes != planned.Bytes || done.Blobs != planned.Blobs {
		t.Errorf("GC = %+v, %v; dry it said %+v", done, err, planned)
	}
	if got := names(t, s); !slices.Equal(got, []string{"lab:1", "lab:2", "lab:4"}) {
		t.Errorf("GC left %v", got)
	}
	for _, im := range []Image{images[0], images[1], images[3]} {
		if err := s.Verify(t.Context(), im, s.keys.Release.Public); err != nil {
			t.Errorf("after GC: %v", err)
		}
	}
	if _, err := os.Stat(s.Blob(images[2].Manifest.Root.Digest)); err == nil {
		t.Error("the root of an image that went is still there")
	}
	if again, err := s.GC(t.Context(), o); err != nil || again.Blobs != 0 {
		t.Errorf("a second GC removes %d blobs (%v); want none", again.Blobs, err)
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	s := newStore(t, t.TempDir())
	im := s.mustPut(t, "1", "content of the root")
	if err := s.Verify(t.Context(), im, s.keys.Release.Public); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), im, s.keys.Server.Public); !errors.Is(err, ErrSignature) {
		t.Errorf("with another key: %v", err)
	}
	if err := os.WriteFile(s.Blob(im.Manifest.Root.Digest), []byte("content of the r00t"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), im, s.keys.Release.Public); !errors.Is(err, ErrDamaged) {
		t.Errorf("with a damaged root: %v", err)
	}
}

func (s stored) mustPut(t *testing.T, version, content string) Image {
	t.Helper()
	im, err := s.put(t.Context(), version, content)
	if err != nil {
		t.Fatal(err)
	}
	return im
}
