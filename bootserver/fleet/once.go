package fleet

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"ingot"
)

// Once is what exactly one boot of a machine does other than its assignment says: it boots another
// image, or the same one with more kernel arguments or a shell in the initramfs.
//
//   - The boot that decides its image next gets it, and has a copy. It is used up when that boot has
//     fetched what it starts, or takes its ticket, whichever is first. A boot that ends before, in its
//     loader, leaves it to the next one: only then did nothing of it run.
//   - What becomes of such a boot does not count for or against an image.
//   - An operator's next decision about what the machine boots cancels it.
type Once struct {
	ImageRef
	Arguments []string      `json:"arguments,omitempty"` // kernel arguments beyond those of the image
	Shell     bool          `json:"shell,omitempty"`     // start a shell in the initramfs
	Limit     time.Duration `json:"limit,omitempty"`     // until the boot must be healthy; 0: as other boots
	Why       string        `json:"why,omitempty"`
	Since     time.Time     `json:"since"`
	Order     int           `json:"order"` // Machine.Orders after the decision, which identifies it
}

// OnceLimit is the default of Once.Limit for boots with other arguments or a shell, which are to be
// looked into; MaxOnceLimit is the largest one.
const (
	OnceLimit    = time.Hour
	MaxOnceLimit = 7 * 24 * time.Hour
)

// same reports whether both are the same decision of an operator, or both are none.
func (o *Once) same(p *Once) bool {
	if o == nil || p == nil {
		return o == p
	}
	return o.Order == p.Order
}

// special reports whether the boot is to be looked into.
func (o *Once) special() bool { return len(o.Arguments) > 0 || o.Shell }

// String describes the boot: "lab:v1 with kernel arguments debug single and a shell in the initramfs".
func (o *Once) String() string { return onceWords(o.Name, o.Arguments, o.Shell) }

func onceWords(image string, arguments []string, shell bool) string {
	var with []string
	if len(arguments) > 0 {
		with = append(with, "kernel arguments "+strings.Join(arguments, " "))
	}
	if shell {
		with = append(with, "a shell in the initramfs")
	}
	if with == nil {
		return image
	}
	return image + " with " + strings.Join(with, " and ")
}

// Arguments returns the kernel arguments of the boot beyond those of its image.
func (b *Boot) Arguments() []string {
	if b.Once == nil {
		return nil
	}
	return b.Once.Arguments
}

// change returns a Change about what is decided for one boot.
func (o *Once) change(code Code, detail string) Change {
	c := Change{Code: code, Image: o.ImageRef, Detail: detail}
	if o.special() {
		c.To = Values{}
	}
	if len(o.Arguments) > 0 {
		c.To["arguments"] = o.Arguments
	}
	if o.Shell {
		c.To["shell"] = true
	}
	return c
}

func onceText(format string) func(Change) string {
	return func(c Change) string {
		text := fmt.Sprintf(format, onceWords(c.Image.Name, c.To.Texts("arguments"), c.To.Bool("shell")))
		if c.Detail != "" {
			text += ": " + c.Detail
		}
		return text
	}
}

// SetOnce decides what one boot of the machine does.
func (d *Decision) SetOnce(o Once) {
	d.Machine.Orders++
	o.Order, o.Since = d.Machine.Orders, d.now
	if o.Limit == 0 && o.special() {
		o.Limit = OnceLimit
	}
	d.Machine.Once = &o
	d.add(o.change(CodeOnceSet, o.Why))
}

// CancelOnce cancels what was decided for one boot.
func (d *Decision) CancelOnce() { d.dropOnce("an operator cancelled it") }

// dropOnce cancels what was decided for one boot, if anything was.
func (d *Decision) dropOnce(reason string) {
	if o := d.Machine.Once; o != nil {
		d.add(o.change(CodeOnceDropped, reason))
		d.Machine.Once = nil
		d.Machine.Orders++
	}
}

// spendOnce uses up what was decided for one boot, when this boot has all that it starts.
func (d *Decision) spendOnce() {
	o := d.Machine.Once
	if o == nil || !o.same(d.Boot.Once) || d.Machine.Boot != d.Boot.ID || !Delivered(d.Boot) && d.Boot.Ticket.IsZero() {
		return
	}
	d.Machine.Once = nil
	d.addBoot(d.Boot, o.change(CodeOnceUsed, ""))
}

// ErrArgument means that a text cannot be a kernel argument of one boot.
var ErrArgument = errors.New("not a kernel argument")

// Bounds on the kernel arguments of one boot. The kernel takes 2048 bytes, with those of the image.
const (
	maxArguments     = 16
	maxArgumentBytes = 512
)

// argumentRE has no character that iPXE or the kernel would take for more than itself: quotes,
// spaces, $, #, ; and so on.
var argumentRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.,:/@+=%*~!^()\[\]-]*$`)

// reserved are keys that decide what is started, which arguments never do.
var reserved = []string{"init", "rdinit", "initrd", "noinitrd", ingot.ArgServer, ingot.ArgBoot, ingot.ArgMAC,
	ingot.ArgRootHash, ingot.ArgLocal}

// CheckArguments returns an error that wraps ErrArgument if a list cannot be the kernel arguments of one
// boot.
func CheckArguments(list []string) error {
	size := 0
	for _, a := range list {
		key, _, _ := strings.Cut(a, "=")
		switch size += len(a) + 1; {
		case !argumentRE.MatchString(a):
			return fmt.Errorf("%w: %q; give one argument at a time, of letters, digits and _ . , : / @ + = %% * ~ ! ^ ( ) [ ] -",
				ErrArgument, a)
		case slices.Contains(reserved, key), strings.HasPrefix(key, "ingot.") && a != ingot.ArgDebug:
			return fmt.Errorf("%w: %q; %s belongs to ingot", ErrArgument, a, key)
		}
	}
	if len(list) > maxArguments || size > maxArgumentBytes {
		return fmt.Errorf("%w: %d arguments of %d bytes; at most %d of %d bytes", ErrArgument, len(list), size, maxArguments,
			maxArgumentBytes)
	}
	return nil
}
