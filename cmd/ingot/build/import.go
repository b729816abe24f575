package build

import (
	"context"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/builder/importer"
	"ingot/builder/source"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/profiles"
)

type importFlags struct {
	name, into, arch, mirror string
	kernel, suite            string
	exclude, include         []string
	identity, root           string
	sshOptions               []string
	sudo, dryRun, offline    bool
	listExcluded             bool
}

func (a *Commands) importCommand() *cobra.Command {
	var f importFlags
	c := &cobra.Command{
		Use:   "import IMAGE | FILE | FOLDER | ssh://[USER@]HOST[:PORT]",
		Short: "write a profile from a container image or a running host",
		Long: `Write a folder with a profile that is based on an existing system:

  REGISTRY/NAME:TAG     a container image in a registry, with the usual credentials file
  FILE, FOLDER          output of docker save, an OCI layout, a tarball or folder of a root;
                        FILE#NAME chooses one of several images
  ssh://USER@HOST       a running host, with this system's ssh

A container image has no kernel: the profile installs a kernel package. If the image lacks
something that booting needs, that is reported. From a running host, the root filesystem is
copied without data, secrets and machine identity; --list-excluded prints what is left out and
why. From a tarball or folder, secrets and what belongs to one host, such as /etc/resolv.conf,
are left out too. The folder lists packages that differ from the Debian base, and local files. An
interrupted import leaves nothing.`,
		Example: `  docker save web:1 -o web.tar && ingot import web.tar --name web
  ingot import registry.example/os/web:1 --name web
  ingot import ssh://root@10.0.0.7 --name web --dry-run
  ingot import ssh://root@10.0.0.7 --name web --include /srv/www --exclude '/opt/cache/*'
  ingot import --list-excluded`,
		Args: command.MaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rules := append(source.Excluded(), userRules(f.exclude)...)
			if f.listExcluded {
				return a.Show(rules, func(w io.Writer) { ruleTable(w, rules) })
			}
			if len(args) == 0 {
				return show.Usagef("ingot import needs IMAGE, FILE, FOLDER or ssh://HOST")
			}
			return a.importFrom(cmd.Context(), args[0], f, rules)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.name, "name", "", "name of the profile (default: the name of the image, file or host)")
	fl.StringVar(&f.into, "into", "", "folder to write (default: ./NAME)")
	fl.StringVar(&f.arch, "arch", string(ingot.AMD64),
		"architecture to choose from a multi-architecture image: amd64 or arm64")
	fl.StringVar(&f.kernel, "kernel", "", "Debian package of the kernel (default: linux-image-ARCH)")
	fl.StringVar(&f.suite, "kernel-suite", "trixie", "Debian suite of the kernel")
	fl.StringVar(&f.mirror, "mirror", "", "Debian mirror URL (default: $INGOT_MIRROR, else this host's apt sources)")
	fl.BoolVar(&f.offline, "offline", false, "use cached downloads, without a mirror or registry")
	fl.BoolVar(&f.dryRun, "dry-run", false, "compare and report, write nothing")
	fl.BoolVar(&f.listExcluded, "list-excluded", false, "print what is left out, and why")
	fl.StringArrayVar(&f.exclude, "exclude", nil, "pattern of additional paths to leave out")
	fl.StringArrayVar(&f.include, "include", nil, "path to copy although it is excluded")
	fl.StringVar(&f.identity, "identity", "", "private key for ssh")
	fl.StringArrayVar(&f.sshOptions, "ssh-option", nil, "option for ssh, as in ssh_config(5): Key=Value")
	fl.StringVar(&f.root, "root", "", "folder of the host to use as the root (default: /)")
	fl.BoolVar(&f.sudo, "sudo", false, "become root on the host with sudo, which must not need a password")
	return c
}

func userRules(patterns []string) []source.Rule {
	var rules []source.Rule
	for _, p := range patterns {
		rules = append(rules, source.Rule{Pattern: p, Why: "excluded by --exclude"})
	}
	return rules
}

func ruleTable(w io.Writer, rules []source.Rule) {
	t := show.Table(w)
	show.Row(t, "PATH", "WHY IT IS LEFT OUT")
	for _, r := range rules {
		why := r.Why
		if r.Folders {
			why += "; empty folders are copied"
		}
		show.Row(t, r.Pattern, why)
	}
	t.Flush()
	fmt.Fprintln(w, "\nPasswords in /etc/shadow are left out as well. To copy an excluded path: --include PATH.")
}

// check reports wrong flags.
func (f *importFlags) check(ref string) error {
	if f.arch != string(ingot.AMD64) && f.arch != string(ingot.ARM64) {
		return show.Usagef("unknown architecture %q: want amd64 or arm64", f.arch)
	}
	for _, p := range append(slices.Clone(f.exclude), f.include...) {
		if _, err := path.Match(p, ""); err != nil || !path.IsAbs(p) {
			return show.Usagef("bad path %q: want an absolute one such as /srv/www, in which * ? and [a-z] match", p)
		}
	}
	host := strings.HasPrefix(ref, "ssh://")
	if !host && (f.identity != "" || len(f.sshOptions) > 0 || f.root != "" || f.sudo) {
		return show.Usagef("--identity, --ssh-option, --root and --sudo go with ssh://HOST")
	}
	if f.name == "" {
		f.name = nameOf(ref)
	}
	if !ingot.ValidProfileName(f.name) {
		return show.Usagef("bad name %q: want lower-case letters, digits and dashes, at most 63; give one with --name",
			f.name)
	}
	if f.into == "" {
		f.into = f.name
	}
	return nil
}

var notInNames = regexp.MustCompile(`[^a-z0-9-]+`)

// nameOf derives a profile's name from what is imported.
func nameOf(ref string) string {
	if h, err := source.ParseHost(ref); err == nil {
		_, host, ok := strings.Cut(h.Target, "@")
		if !ok {
			host = h.Target
		}
		ref = strings.Split(host, ".")[0]
	}
	ref, _, _ = strings.Cut(ref, "@")
	ref, _, _ = strings.Cut(ref, "#")
	base := path.Base(ref)
	base, _, _ = strings.Cut(base, ":")
	for _, ext := range []string{".gz", ".xz", ".zst", ".tar", ".tgz"} {
		base = strings.TrimSuffix(base, ext)
	}
	return strings.Trim(notInNames.ReplaceAllString(strings.ToLower(base), "-"), "-")
}

func (a *Commands) importFrom(ctx context.Context, ref string, f importFlags, rules []source.Rule) error {
	if err := f.check(ref); err != nil {
		return err
	}
	kernel := profiles.Kernel{Package: f.kernel, Suite: f.suite, Modules: []string{"@boot", "@virtual", "@net",
		"@storage"},
		Arguments: []string{"console=tty0", "console=ttyS0,115200", "panic=30"}}
	env, err := a.env(buildFlags{mirror: f.mirror, offline: f.offline})
	if err != nil {
		return err
	}
	bar := a.progress(env)
	o := importer.Options{Name: f.name, Folder: f.into, Arch: ingot.Arch(f.arch), Kernel: kernel, DryRun: f.dryRun,
		Rules: rules, Include: f.include}
	start := time.Now()
	var im *importer.Result
	if strings.HasPrefix(ref, "ssh://") {
		var h source.Host
		if h, err = source.ParseHost(ref); err != nil {
			return show.UsageError{Err: err}
		}
		im, err = importer.Host(ctx, env, f.host(h, !show.IsTerminal(a.Stderr)), o)
	} else {
		im, err = importer.Image(ctx, env, ref, o)
	}
	if err != nil {
		bar.Abort()
		if ctx.Err() != nil {
			return show.WithHint(fmt.Errorf("interrupted; nothing was written"), "run the same command again")
		}
		return show.Explain(ctx, err)
	}
	bar.Finish()
	return a.Show(im, func(w io.Writer) { importTable(w, im, time.Since(start)) })
}

// host adds the settings of the flags to the host of the URL.
func (f *importFlags) host(h source.Host, batch bool) source.Host {
	h.Root, h.Sudo, h.Batch = f.root, f.sudo, batch
	if f.identity != "" {
		h.Options = append(h.Options, "-i", f.identity, "-o", "IdentitiesOnly=yes")
	}
	for _, o := range f.sshOptions {
		h.Options = append(h.Options, "-o", o)
	}
	return h
}

func importTable(w io.Writer, im *importer.Result, took time.Duration) {
	if im.Folder == "" {
		fmt.Fprintf(w, "%s\n", show.Plain(im.From))
	} else {
		fmt.Fprintf(w, "wrote %s in %s\n", im.Folder, show.Seconds(took))
	}
	for _, line := range im.Findings() {
		fmt.Fprintf(w, "  %s\n", show.Plain(line))
	}
	switch {
	case im.Folder == "":
		fmt.Fprintln(w, "  nothing was written because of --dry-run")
	case im.NoInit():
		fmt.Fprintln(w, "  → it will not boot: add what it lacks to the image, and import it again")
	default:
		fmt.Fprintf(w, "  → ingot build %s\n", asPath(im.Folder))
	}
}

// asPath writes a folder so that it is not a shipped profile.
func asPath(folder string) string {
	if path.IsAbs(folder) || strings.HasPrefix(folder, ".") {
		return folder
	}
	return "./" + folder
}
