package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ingot/builder/inspect"
	"ingot/builder/secrets"
	"ingot/builder/tree"
	"ingot/profiles"
)

// ErrSecrets: the image would give the same secret to every machine.
var ErrSecrets = errors.New("every machine would get the same secrets")

// RandomPath is a path of a root that differs between two runs of the package scripts.
type RandomPath struct {
	Path string `json:"path"`
	// Allowed is the reason for which the profile allows it; empty: it does not.
	Allowed string `json:"allowed,omitempty"`
}

// String describes it for people.
func (r RandomPath) String() string {
	if r.Allowed == "" {
		return r.Path
	}
	return fmt.Sprintf("%s (allowed: %s)", r.Path, r.Allowed)
}

// removeSecrets removes from the base what package scripts are known to make at random. Layers and
// files, which come later, may bring it.
func (b *build) removeSecrets(root *tree.Tree) error {
	o := secrets.Options{Allowed: b.p.Secrets.Allows}
	if i := slices.IndexFunc(b.p.Volumes, func(v profiles.Volume) bool { return v.Identity }); i >= 0 {
		o.Identity = b.p.Volumes[i].Mount
	}
	var err error
	b.removed, err = secrets.Remove(root, o)
	return err
}

// checkSecrets refuses what looks like a secret in the finished root, and what differed between two
// runs of the package scripts, unless the profile brings or allows it.
func (b *build) checkSecrets(root *tree.Tree) error {
	b.Report("secrets", 0, 0, "")
	brought := map[string]bool{}
	for _, f := range b.p.Files {
		brought[f.Path] = true
	}
	expected := func(p string) bool { return brought[p] || b.p.Secrets.Allows(p) }
	found, err := secrets.Find(root, expected)
	if err != nil {
		return err
	}
	for _, p := range b.random {
		switch {
		case root.Get(p) == nil || brought[p] || secrets.Cleans(p):
		case b.Random != nil:
			b.Random(RandomPath{p, b.p.Secrets.Reason(p)})
		case !expected(p) && !slices.ContainsFunc(found, func(f secrets.Finding) bool { return f.Path == p }):
			found = append(found, secrets.Finding{Path: p, Why: "differs between two runs of the package scripts"})
		}
	}
	if len(found) > 0 {
		return refuseSecrets(found)
	}
	b.Report("secrets", 1, 1, fmt.Sprintf("%d left out", len(b.removed)))
	for _, line := range secrets.Lines(b.removed) {
		b.Logger().Info("a secret of packages is not in the image", "secret", line)
	}
	for _, r := range b.removed {
		if p := r.Lacks(root); p != "" {
			b.Logger().Warn("the image lacks a secret that its machines must share; supply it with a volume, or, if "+
				"everybody on the boot network may read it, with files", "secret", r.What, "path", p)
		}
	}
	return nil
}

// maxListed is the number of secrets that an error lists.
const maxListed = 40

func refuseSecrets(found []secrets.Finding) error {
	var lines []string
	for _, f := range found[:min(len(found), maxListed)] {
		lines = append(lines, "  "+f.String())
	}
	if more := len(found) - maxListed; more > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", more))
	}
	return fmt.Errorf("%w:\n%s\nleave out what makes them, or allow each in the profile, with the reason: "+
		"secrets: {allow: [{path: %q, reason: \"…\"}]}", ErrSecrets, strings.Join(lines, "\n"), found[0].Path)
}

// findRandom installs the packages of a suite a second time and remembers the paths that differ from
// the first. The result is cached by what the plan installs. Without Check, a result of an earlier
// build is used if there is one.
func (b *build) findRandom(ctx context.Context, base *tree.Tree) error {
	key, err := b.runKey(base)
	if err != nil {
		return err
	}
	if !b.Check && !b.runs.has(key) {
		return nil
	}
	b.Report("second run", 0, 0, "")
	path, kept, err := b.runs.get(ctx, key, func(fresh string) error {
		work := filepath.Join(b.work, "again")
		if err := os.MkdirAll(work, 0o755); err != nil {
			return err
		}
		defer os.RemoveAll(work)
		file := filepath.Join(work, "tree.tar")
		if err := b.install(ctx, file, work, b.accounts, nil); err != nil {
			return err
		}
		again, err := tree.FromTar(ctx, file)
		if err != nil {
			return err
		}
		paths, err := secrets.Differences(base, again)
		if err != nil {
			return err
		}
		text, err := json.Marshal(slices.DeleteFunc(paths, inspect.IsPurged))
		if err != nil {
			return err
		}
		return os.WriteFile(fresh, text, 0o600)
	})
	if err != nil {
		return fmt.Errorf("running the package scripts again: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading what two runs of the package scripts made differently: %w", err)
	}
	if err := json.Unmarshal(text, &b.random); err != nil {
		return fmt.Errorf("reading what two runs of the package scripts made differently: %w", err)
	}
	detail := fmt.Sprintf("%d paths differ", len(b.random))
	if kept {
		detail += ", from the cache"
	}
	b.Report("second run", 1, 1, detail)
	return nil
}

// runKey returns the key of a second run in the cache. It depends on the accounts that packages made,
// and not on others that the plan knows by now: a build that adds accounts finds the same results.
func (b *build) runKey(base *tree.Tree) (string, error) {
	if b.plan.Accounts == nil {
		return b.baseKey(nil), nil
	}
	made, err := readAccounts(base)
	return b.baseKey(made), err
}

// Check makes the root of a plan as Build does, runs the package scripts a second time, and reports
// the secrets and the random files that it would have as ErrSecrets. It stores no image.
func Check(ctx context.Context, env *Env, plan *Plan, o BuildOptions) error {
	o.Check = true
	b, done, err := newBuild(env, plan, o)
	if err != nil {
		return err
	}
	defer done()
	if err := b.fetch(ctx); err != nil {
		return err
	}
	root, err := b.rootTree(ctx, func() {})
	if err != nil {
		return err
	}
	kernel, err := b.kernelTree(ctx)
	if err != nil {
		return err
	}
	return b.merge(ctx, root, kernel)
}
