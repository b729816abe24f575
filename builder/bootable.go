package builder

import (
	"fmt"
	"strings"

	"ingot/builder/inspect"
	"ingot/builder/tree"
)

// checkBootable refuses a root without systemd as its init, and warns about other parts that most
// machines need.
func (b *build) checkBootable(root *tree.Tree) error {
	missing := inspect.Missing(root)
	if missing.Init && !b.p.Base.Tree() {
		return fmt.Errorf("%w: the root has no /sbin/init; add the packages systemd and systemd-sysv, or extend debian",
			ErrNotBootable)
	}
	if missing.Init {
		return fmt.Errorf("%w: the root lacks %s", ErrNotBootable, missing)
	}
	if init := root.Find("sbin/init"); !strings.HasSuffix(init.Path, "systemd/systemd") {
		return fmt.Errorf("%w: its /sbin/init is /%s; ingot supports systemd only", ErrNotBootable, init.Path)
	}
	if len(missing.Parts) > 0 {
		b.Logger().Warn("the root lacks parts that most machines need", "missing", missing.String())
	}
	return nil
}

// linkModules makes the kernel's modules, which are in /usr/lib, visible in a root whose /lib is a
// folder of its own.
func linkModules(root *tree.Tree) error {
	if lib := root.Get("lib"); lib == nil || lib.Kind != tree.Dir || root.Get("lib/modules") != nil &&
		root.Get("lib/modules").Kind != tree.Dir {
		return nil
	}
	root.Remove("lib/modules")
	return root.PutLink("lib/modules", "/usr/lib/modules")
}
