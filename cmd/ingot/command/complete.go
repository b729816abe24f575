package command

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot/cmd/ingot/client"
	"ingot/image"
)

// Completion returns the values that an argument may have, for the shell. It
// returns nothing when they cannot be found out.
type Completion func(ctx context.Context) []cobra.Completion

// completionTime bounds how long a shell waits for a server.
const completionTime = 2 * time.Second

// Complete completes the arguments of a command, one completion for each; the
// last one counts for all further arguments if the command takes several. A
// nil completion stands for the name of a file.
func Complete(several bool, each ...Completion) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		n := len(args)
		if several {
			n = min(n, len(each)-1)
		}
		if n >= len(each) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if each[n] == nil {
			return nil, cobra.ShellCompDirectiveDefault
		}
		values := slices.DeleteFunc(ask(cmd, each[n], typed), func(v cobra.Completion) bool {
			return slices.Contains(args, word(v)) // it is there already
		})
		return values, cobra.ShellCompDirectiveNoFileComp
	}
}

// CompleteFlag completes the value of a flag.
func CompleteFlag(values Completion) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return ask(cmd, values, typed), cobra.ShellCompDirectiveNoFileComp
	}
}

// ask returns the values that begin with what was typed.
func ask(cmd *cobra.Command, values Completion, typed string) []cobra.Completion {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	return slices.DeleteFunc(values(ctx), func(v cobra.Completion) bool { return !strings.HasPrefix(v, typed) })
}

// word is the value of a completion without its description.
func word(c cobra.Completion) string {
	w, _, _ := strings.Cut(c, "\t")
	return w
}

// Machines completes machines of the server: by name, or by ID without one.
func (a *App) Machines(ctx context.Context) (values []cobra.Completion) {
	list, err := a.Client().MachinesBrief(ctx)
	if err != nil {
		return nil
	}
	for _, m := range list {
		name, about := string(m.ID), string(m.State)
		if m.Name != "" {
			name, about = m.Name, string(m.ID)
		}
		values = append(values, cobra.CompletionWithDesc(name, about))
	}
	return values
}

// ServerImages completes images of the server.
func (a *App) ServerImages(ctx context.Context) (values []cobra.Completion) {
	list, err := a.Client().Images(ctx)
	if err != nil {
		return nil
	}
	for _, im := range list {
		values = append(values, cobra.CompletionWithDesc(im.Name, im.Digest.Short()))
		for _, tag := range im.Tags {
			values = append(values, cobra.CompletionWithDesc(tag, im.Name))
		}
	}
	return values
}

// Rollouts completes rollouts of the server.
func (a *App) Rollouts(ctx context.Context) (values []cobra.Completion) {
	list, err := a.Client().Rollouts(ctx)
	if err != nil {
		return nil
	}
	for _, r := range list {
		values = append(values, cobra.CompletionWithDesc(r.ID, r.Image.Name+", "+r.State))
	}
	return values
}

// Webhooks completes webhooks of the server.
func (a *App) Webhooks(ctx context.Context) (values []cobra.Completion) {
	list, err := a.Client().Webhooks(ctx)
	if err != nil {
		return nil
	}
	for _, w := range list {
		values = append(values, cobra.CompletionWithDesc(w.Name, w.State))
	}
	return values
}

// StoreVersions completes images like StoreImages, without their tags.
func (a *App) StoreVersions(ctx context.Context) []cobra.Completion {
	return slices.DeleteFunc(a.StoreImages(ctx), func(v cobra.Completion) bool {
		_, about, _ := strings.Cut(v, "\t")
		return strings.Contains(about, ":") // a tag: of a version it is the digest
	})
}

// StoreImages completes images of the store, or of the server that was named.
func (a *App) StoreImages(ctx context.Context) (values []cobra.Completion) {
	if a.Elsewhere() {
		return a.ServerImages(ctx)
	}
	if _, err := os.Stat(a.StoreRoot()); err != nil {
		return nil // opening a store makes it
	}
	s, err := image.Open(ctx, a.StoreRoot())
	if err != nil {
		return nil
	}
	list, err := s.List(ctx)
	if err != nil {
		return nil
	}
	for _, im := range list {
		values = append(values, cobra.CompletionWithDesc(im.Name.String(), im.Digest.Short()))
		for _, tag := range im.Tags {
			values = append(values, cobra.CompletionWithDesc(tag, im.Name.String()))
		}
	}
	return values
}

// Contexts completes the names of contexts.
func Contexts(context.Context) (values []cobra.Completion) {
	all, err := client.LoadContexts()
	if err != nil {
		return nil
	}
	for name, t := range all.Contexts {
		values = append(values, cobra.CompletionWithDesc(name, t.Server))
	}
	slices.Sort(values)
	return values
}

// Words completes fixed words.
func Words(list ...string) Completion {
	return func(context.Context) []cobra.Completion { return slices.Clone(list) }
}

// TrustedKeys completes the names of the keys that the store trusts.
func (a *App) TrustedKeys(context.Context) (values []cobra.Completion) {
	keys, err := image.TrustedKeys(filepath.Join(a.StoreRoot(), "keys"))
	if err != nil {
		return nil
	}
	for _, k := range keys {
		values = append(values, cobra.CompletionWithDesc(k.Name, k.ID))
	}
	return values
}

// StoreKeys completes the names of the keys of the store, also of those that were replaced.
func (a *App) StoreKeys(ctx context.Context) []cobra.Completion {
	values := a.TrustedKeys(ctx)
	keys, err := image.OldKeys(filepath.Join(a.StoreRoot(), "keys"))
	if err != nil {
		return values
	}
	for _, k := range keys {
		if !slices.ContainsFunc(values, func(v cobra.Completion) bool { return strings.HasPrefix(v, k.Name()) }) {
			values = append(values, cobra.CompletionWithDesc(k.Name(), string(k.Use)+" key"))
		}
	}
	return values
}

// Credentials completes the names of tokens and client certificates.
func (a *App) Credentials(ctx context.Context) (values []cobra.Completion) {
	list, err := a.Client().Credentials(ctx)
	if err != nil {
		return nil
	}
	for _, c := range list {
		values = append(values, cobra.CompletionWithDesc(c.Name, string(c.Scope)))
	}
	return values
}

// Sessions completes sessions of browsers, by their ids.
func (a *App) Sessions(ctx context.Context) (values []cobra.Completion) {
	list, err := a.Client().Sessions(ctx)
	if err != nil {
		return nil
	}
	for _, s := range list {
		values = append(values, cobra.CompletionWithDesc(s.ID, s.Name))
	}
	return values
}
