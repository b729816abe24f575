package api

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/internal/harmless"
)

// Images is what is done with the images and keys of the server's store. A command on the server's
// host does the same while no server runs, see operator.Editor.
type Images interface {
	// Images lists what the store has, by profile and age, the newest last.
	Images(ctx context.Context) ([]Image, error)
	Image(ctx context.Context, ref string) (Image, error)
	// RemoveImage takes an image out of the store that no machine needs.
	RemoveImage(ctx context.Context, ref string) (Image, error)
	// CollectImages removes old images, and files that no image needs.
	CollectImages(ctx context.Context, q CollectRequest) (Collected, error)
	TagImage(ctx context.Context, ref, tag string) (Image, error)
	// UntagImage takes a tag away; it returns the image that had it.
	UntagImage(ctx context.Context, tag string) (Image, error)
	// NoteImage writes into the audit log what a program of the server's host
	// did to an image of the store.
	NoteImage(ctx context.Context, ref string, q NoteRequest) (Image, error)
	// ImagePackages lists the packages of an image by name, as its SBOM has them; none if it has no SBOM.
	ImagePackages(ctx context.Context, ref string) ([]Package, error)
	// ImageContents is what an image consists of, with sizes, and who signed it.
	ImageContents(ctx context.Context, ref string) (Contents, error)
	// SBOM is the software bill of materials of an image, in CycloneDX.
	SBOM(ctx context.Context, ref string) ([]byte, error)
	Keys
}

// Package is a package of an image.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Files   int    `json:"files,omitempty"`
	Size    int64  `json:"size,omitempty"` // bytes of its files in the root, before compression; 0: none, or not known
}

// Contents is what an image consists of.
type Contents struct {
	Packages []Package `json:"packages"`          // by name
	Other    int64     `json:"other"`             // bytes of files of no package
	Measured bool      `json:"measured"`          // the sizes are known
	Problem  string    `json:"problem,omitempty"` // why they are not
	SBOM     bool      `json:"sbom"`              // the image has one
	// Signatures of the image, and of its UKI for Secure Boot
	Signatures []Signature `json:"signatures"`
}

// Signature says who signed a part of an image.
type Signature struct {
	Of      string `json:"of" enum:"image,uki"`
	By      string `json:"by"`            // number of the release key, or the subject of the certificate
	Key     string `json:"key,omitempty"` // name of the release key, or digest of the certificate
	Trusted bool   `json:"trusted"`       // of the image: the store trusts the key; of a UKI: it was signed here
}

// Image is an image of the server's store.
type Image struct {
	Digest   ingot.Digest `json:"digest"`
	Name     string       `json:"name"`
	Tags     []string     `json:"tags,omitempty"`
	Arch     ingot.Arch   `json:"arch"`
	Kernel   string       `json:"kernel,omitempty"`
	Packages int          `json:"packages,omitempty"`
	Size     int64        `json:"size"` // bytes of all of its files
	Stored   time.Time    `json:"stored"`
	// bytes that a boot of it takes, by artifact: kernel, initramfs, root; uki.efi
	Needed map[string]int64 `json:"needed"`
	InUse  string           `json:"inUse,omitempty"` // why it must stay; told by lists
	// damaged, untrusted, complete (its files have the right sizes), or verified (they were read); told by lists
	State   string `json:"state,omitempty"`
	Problem string `json:"problem,omitempty"` // why it cannot be served
}

// CollectRequest says what is removed.
type CollectRequest struct {
	Keep   int  `json:"keep,omitempty" minimum:"0"` // images of each profile that stay, the newest; 0: all
	DryRun bool `json:"dryRun,omitempty"`           // say what would go
}

// Collected is what was removed, or would be.
type Collected struct {
	Images []string `json:"images"` // names
	Blobs  int      `json:"blobs"`
	Bytes  int64    `json:"bytes"`
	DryRun bool     `json:"dryRun"`
}

// TagRequest names a tag: PROFILE:WORD.
type TagRequest struct {
	Tag string `json:"tag" maxLength:"200"`
}

// NoteRequest says what was done to an image.
type NoteRequest struct {
	Did  string `json:"did" enum:"build,import,pull,sign"`
	With string `json:"with,omitempty" maxLength:"300"` // where it came from, or what signed it
}

// ImageIn names one image in the path of a route.
type ImageIn struct {
	Ref string `path:"ref" maxLength:"200" doc:"PROFILE:VERSION, a tag, PROFILE (the newest), or a digest or its prefix."`
}

func imageRoutes(r *routes, b Images) {
	type imageIn[Q any] struct {
		ImageIn
		Body Q
	}
	add(r, "GET /v1/images", access.Read, "The images of the store, their state, and why they must stay",
		func(ctx context.Context, _ *nothingIn) ([]Image, error) { return b.Images(ctx) })
	add(r, "GET /v1/images/{ref}", access.Read, "One image of the store",
		func(ctx context.Context, in *ImageIn) (Image, error) { return b.Image(ctx, in.Ref) })
	add(r, "DELETE /v1/images/{ref}", access.Admin, "Remove an image that no machine needs; ref is exact",
		func(ctx context.Context, in *ImageIn) (Image, error) {
			return b.RemoveImage(ctx, in.Ref)
		})
	type collectIn struct{ Body CollectRequest }
	add(r, "POST /v1/images/gc", access.Admin, "Free the space of what no image needs",
		func(ctx context.Context, in *collectIn) (Collected, error) {
			return b.CollectImages(ctx, in.Body)
		})
	add(r, "POST /v1/images/{ref}/tag", access.Admin, "Give an image one more name",
		func(ctx context.Context, in *imageIn[TagRequest]) (Image, error) {
			return b.TagImage(ctx, in.Ref, in.Body.Tag)
		})
	add(r, "POST /v1/images/{ref}/untag", access.Admin, "Take a tag away; the image stays",
		func(ctx context.Context, in *ImageIn) (Image, error) {
			return b.UntagImage(ctx, in.Ref)
		})
	add(r, "POST /v1/images/{ref}/note", access.Admin, "Note in the audit log what was done to an image's files",
		func(ctx context.Context, in *imageIn[NoteRequest]) (Image, error) {
			return b.NoteImage(ctx, in.Ref, in.Body)
		})
	add(r, "GET /v1/images/{ref}/packages", access.Read, "The packages of an image, by name",
		func(ctx context.Context, in *ImageIn) ([]Package, error) { return b.ImagePackages(ctx, in.Ref) })
	add(r, "GET /v1/images/{ref}/contents", access.Read, "What an image consists of, with sizes, and who signed it",
		func(ctx context.Context, in *ImageIn) (Contents, error) { return b.ImageContents(ctx, in.Ref) })
	r.addPlain("GET /v1/images/{ref}/sbom", access.Read, "The software bill of materials of an image (CycloneDX)",
		func(w http.ResponseWriter, q *http.Request) {
			text, err := b.SBOM(q.Context(), q.PathValue("ref"))
			if err != nil {
				write(w, problem(err))
				return
			}
			w.Header().Set("Content-Type", ingot.ArtifactSBOM)
			_, _ = w.Write(harmless.JSON(text)) // a client that hung up wants no answer
		})
	keyRoutes(r, b)
}

func imagePath(ref string) string { return "images/" + url.PathEscape(ref) }

// Images lists the images of the server's store.
func (c *Client) Images(ctx context.Context) ([]Image, error) {
	return list[Image](ctx, c, "images")
}

// Image returns one image of the server's store.
func (c *Client) Image(ctx context.Context, ref string) (im Image, err error) {
	return im, c.call(ctx, http.MethodGet, imagePath(ref), nil, &im)
}

// ImagePackages lists the packages of an image.
func (c *Client) ImagePackages(ctx context.Context, ref string) ([]Package, error) {
	return list[Package](ctx, c, imagePath(ref)+"/packages")
}

// ImageContents returns what an image consists of.
func (c *Client) ImageContents(ctx context.Context, ref string) (out Contents, err error) {
	return out, c.call(ctx, http.MethodGet, imagePath(ref)+"/contents", nil, &out)
}

// SBOM returns the software bill of materials of an image.
func (c *Client) SBOM(ctx context.Context, ref string) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := c.stream(ctx, http.MethodGet, "/v1/"+imagePath(ref)+"/sbom", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := receive(&text, resp.Body, maxSBOM, maxSilence, cancel); err != nil {
		return nil, fmt.Errorf("reading the SBOM: %w", err)
	}
	return text.Bytes(), nil
}

// maxSBOM bounds a software bill of materials in bytes: it names every file of the image.
const maxSBOM = 256 << 20

// RemoveImage removes an image that no machine needs.
func (c *Client) RemoveImage(ctx context.Context, ref string) (im Image, err error) {
	return im, c.patient(longPatience).call(ctx, http.MethodDelete, imagePath(ref), nil, &im)
}

// CollectImages frees the space of what no image needs.
func (c *Client) CollectImages(ctx context.Context, q CollectRequest) (done Collected, err error) {
	return done, c.patient(longPatience).call(ctx, http.MethodPost, "images/gc", q, &done)
}

// TagImage gives an image one more name.
func (c *Client) TagImage(ctx context.Context, ref, tag string) (im Image, err error) {
	return im, c.patient(longPatience).call(ctx, http.MethodPost, imagePath(ref)+"/tag", TagRequest{tag}, &im)
}

// UntagImage takes a tag away.
func (c *Client) UntagImage(ctx context.Context, tag string) (im Image, err error) {
	return im, c.patient(longPatience).call(ctx, http.MethodPost, imagePath(tag)+"/untag", nil, &im)
}

// NoteImage notes what was done to an image of the store.
func (c *Client) NoteImage(ctx context.Context, ref string, q NoteRequest) (im Image, err error) {
	return im, c.call(ctx, http.MethodPost, imagePath(ref)+"/note", q, &im)
}
