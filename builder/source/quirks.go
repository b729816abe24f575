package source

import "ingot/builder/accounts"

// quirk replaces a program of the root with a stub while packages are configured. The stub is
// mounted over the program and leaves no trace.
type quirk struct {
	path string
	stub string // name of a stub
	why  string
}

// stubs are the programs that run instead, by name.
var stubs = map[string]string{
	"nothing": "#!/bin/sh\nexit 0\n",
	// The call without hooks is followed by one with them, which does the work of both.
	"deferred-certificates": "#!/bin/sh\n[ \"$1 $2\" = \"--hooksdir \" ] && exit 0\n" +
		"exec /bin/sh /.ingot/original/update-ca-certificates \"$@\"\n",
	"accounts": accounts.Stub,
}

// quirks are all differences from what the packages would run, with reasons.
var quirks = []quirk{
	{"/usr/bin/dpkg-maintscript-helper", "nothing",
		"it mends what older versions left behind, and every package here is new"},
	{"/usr/bin/ssh-keygen", "nothing", "host keys are a machine's own and never part of an image"},
	{"/usr/bin/mandb", "nothing", "an image that never changes has no use for an index of its manual pages, which " +
		"apropos alone reads"},
	{"/usr/sbin/update-initramfs", "nothing", "ingot makes the initramfs"},
	{"/usr/sbin/start-stop-daemon", "nothing", "nothing is started while an image is built"},
	{"/usr/sbin/update-ca-certificates", "deferred-certificates", "ca-certificates runs it twice, half a second of " +
		"every build each; the second time does all"},
}

// numbered are the programs that make accounts, where the accounts have numbers of their own.
var numbered = []quirk{
	{"/usr/sbin/adduser", "accounts", "their files on volumes must stay theirs; addgroup is a link to it"},
	{"/usr/sbin/useradd", "accounts", "for scripts that run it directly"},
	{"/usr/sbin/groupadd", "accounts", "for scripts that run it directly"},
	{"/usr/bin/systemd-sysusers", "accounts", "for packages with a file in sysusers.d"},
}
