package source

import (
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The media types of Docker's Image Manifest V2, Schema 2 (distribution,
// docs/spec/manifest-v2-2.md), which registries and archives hold beside those of OCI.
const (
	dockerManifest          = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList      = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig            = "application/vnd.docker.container.image.v1+json"
	dockerLayer             = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerUncompressedLayer = "application/vnd.docker.image.rootfs.diff.tar"
	dockerForeignLayer      = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
)

// OCI's layers that may not be passed on (image-spec 1.0, layer.md).
const (
	restrictedLayer     = "application/vnd.oci.image.layer.nondistributable.v1.tar"
	restrictedLayerGzip = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
)

func isManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == dockerManifest
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerManifestList
}

func isConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == dockerConfig
}

func isLayer(mediaType string) bool {
	return slices.Contains([]string{
		ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
		dockerLayer, dockerUncompressedLayer, dockerForeignLayer, restrictedLayer, restrictedLayerGzip,
	}, mediaType)
}

// platformName is OS/ARCHITECTURE[/VARIANT][:VERSION]; empty without an OS.
func platformName(p *ocispec.Platform) string {
	if p.OS == "" {
		return ""
	}
	name := p.OS
	for _, part := range []string{p.Architecture, p.Variant} {
		if part != "" {
			name += "/" + part
		}
	}
	if p.OSVersion != "" {
		name += ":" + p.OSVersion
	}
	return name
}
