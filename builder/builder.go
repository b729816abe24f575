// Package builder turns a Profile into a Plan, in which every input is pinned by digest, and a Plan
// into an Image: packages installed, layers merged, root and initramfs packed, everything signed
// and put into the store. The same plan gives the same bits.
//
// The packages below it are the steps and what is done with the result: lock (resolve and pin),
// source (packages and trees), tree, squashfs, initramfs, verity, uki and bootdisk (formats, which
// know nothing of ingot), sbom, importer, compare, secureboot and export.
package builder

import (
	"errors"

	"ingot/builder/source"
)

// Env is what all steps share: caches, mirror, log and progress.
type Env = source.Env

// Event reports the progress of a step.
type Event = source.Event

// Errors that callers may test for with errors.Is.
var (
	// ErrTooBig: the image needs more memory than its profile allows.
	ErrTooBig = errors.New("the image does not fit its RAM budget")
	// ErrNotBootable: something that a boot needs is missing from the image.
	ErrNotBootable = errors.New("the image cannot boot")
	// ErrLost: an input of the plan is neither in a cache nor where it came from.
	ErrLost = errors.New("an input of the plan is lost")
	// ErrOtherIngot: the plan can be used only by the version of ingot that made it.
	ErrOtherIngot = errors.New("use the ingot that built the image")
	// ErrOlderIngot: an older version made the plan, and this one would make other bits of it.
	ErrOlderIngot = errors.New("built by an older ingot, whose builds this one cannot repeat")
	// ErrAccounts: an account cannot have the number that it is to have.
	ErrAccounts = errors.New("an account cannot get its number")
	// ErrReplaces: a file, link or layer of the profile would remove a folder, or a folder would take
	// the place of a file.
	ErrReplaces = errors.New("folders are not replaced")
	// ErrMount: a volume or folder cannot be mounted at its path in the root.
	ErrMount = errors.New("no mount point")
	// ErrNoFile: the image has no such file.
	ErrNoFile = errors.New("no such file in the image")
)
