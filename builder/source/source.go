// Package source gets what images are made of.
//
// Debian packages: a private apt resolves names to exact packages, against an empty list of installed
// packages and the mirror's signed lists (Apt). A cache keeps packages by their SHA-256 and downloads
// what is missing (Cache). Install unpacks them in parallel, writes dpkg's database as dpkg --unpack
// does, and lets the root's own dpkg configure them once.
//
// Trees: container images from a registry, an OCI layout or a docker save archive, tarballs, folders
// of this host (Trees), and the root of a running host over SSH (Host). All but the last are pinned by
// digest and kept in Blobs.
//
// Env holds what these and the other steps of a build share. The package leaves out resolving by any
// other package manager than apt: roots of other distributions come as trees.
package source

import "errors"

// Errors of packages that callers may test for with errors.Is. Errors of trees and of running hosts are
// in oci.go, trees.go, blobs.go and host.go.
var (
	// ErrNoPackage: the suite has no package of that name.
	ErrNoPackage = errors.New("no such package")
	// ErrNoSuite: the mirror has no such suite.
	ErrNoSuite = errors.New("no such suite")
	// ErrNoMirror: neither the caller nor the host's apt sources name a Debian mirror.
	ErrNoMirror = errors.New("no Debian mirror is known")
	// ErrOffline: the mirror cannot be reached and nothing is cached.
	ErrOffline = errors.New("the mirror cannot be reached")
	// ErrNoTool: a program that ingot needs is not installed on this host.
	ErrNoTool = errors.New("a required program is not installed")
	// ErrConflict: the packages cannot be installed together.
	ErrConflict = errors.New("the packages cannot be installed together")
	// ErrDigest: a file does not have the digest that the plan pins.
	ErrDigest = errors.New("the file is not the one that was planned")
	// ErrUntrusted: the mirror's package lists are not signed by a trusted key, or are too old.
	ErrUntrusted = errors.New("the mirror's package lists cannot be trusted")
	// ErrScript: a maintainer script of a package failed.
	ErrScript = errors.New("a package cannot be configured")
)
