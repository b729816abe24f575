package image

// Contents is what the root of an image consists of. Sizes are of unpacked content: the squashfs
// compresses files of several packages together.
type Contents struct {
	Packages []PackageSize `json:"packages"` // by name
	Other    int64         `json:"other"`    // bytes of files of no package
}

// PackageSize is a package, and what its files take in a root.
type PackageSize struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Files   int    `json:"files"`
	Bytes   int64  `json:"bytes"`
}

// Bytes is the size of all files.
func (c Contents) Bytes() int64 {
	n := c.Other
	for _, p := range c.Packages {
		n += p.Bytes
	}
	return n
}
