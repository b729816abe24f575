package show

import (
	"encoding/json"

	"ingot"
	"ingot/image"
)

// ImageView is the JSON form of an image.
type ImageView struct {
	Digest    ingot.Digest        `json:"digest"`
	Name      string              `json:"name"`
	Tags      []string            `json:"tags,omitempty"`
	State     string              `json:"state,omitempty"`   // of catalog.Listed, in lists
	Problem   string              `json:"problem,omitempty"` // why machines cannot boot it
	Size      int64               `json:"size"`
	Signature string              `json:"signature,omitempty"`
	Manifest  ingot.ImageManifest `json:"manifest"`
	OCI       json.RawMessage     `json:"oci,omitempty"`
	Referrers []image.Referrer    `json:"referrers,omitempty"` // filled by inspect: signatures, SBOM, signed UKIs
	Contents  *image.Contents     `json:"contents,omitempty"`  // likewise: packages with their sizes
}

// ViewOf returns the JSON form of an image, without its referrers.
func ViewOf(im image.Image) ImageView {
	return ImageView{Digest: im.Digest, Name: im.Name.String(), Tags: im.Tags, Size: im.Size,
		Signature: im.Signature, Manifest: im.Manifest, OCI: im.OCI}
}
