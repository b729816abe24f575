# Leaves the host behind and runs the scripts of the packages. All of it happens
# in this one process, because no program can be started between pivot_root and
# the end of the host's mounts: those of the host are out of reach then, and
# those of the root are not trusted. Perl is in every Debian (perl-base), and can
# make system calls. The numbers of those of this architecture are in the
# environment, as is KEEP, the capabilities to keep (capabilities(7)).
use strict;
use warnings;

sub call {
    my ($name, @arguments) = @_;
    return syscall($ENV{"SYS_$name"} + 0, @arguments);
}

sub must {
    my $name = $_[0];
    return if call(@_) >= 0;
    die "ingot: failed: confining the scripts of packages: $name: $!\n";
}

must("CLOSE_RANGE", 3, 0xFFFFFFFF, 0);    # what the caller's caller left open
my ($here, $hostname) = (".", "localhost");
call("SETHOSTNAME", $hostname, length $hostname);
must("SETSID");         # no controlling terminal that something could be typed into (tty_ioctl(4), TIOCSTI)
call("KEYCTL", 1, 0);   # KEYCTL_JOIN_SESSION_KEYRING: not that of the user who builds; refused in some containers
chdir $ENV{ROOT} or die "ingot: failed: confining the scripts of packages: $ENV{ROOT}: $!\n";
must("PIVOT_ROOT", $here, $here);
must("UMOUNT2", $here, 2);    # MNT_DETACH: the old root lies on the new one now (pivot_root(2))
chdir "/" or die;

my ($low, $high) = (0, 0);
my %keep = map { $_ => 1 } split / /, $ENV{KEEP};
for my $c (0 .. 63) {
    if (!$keep{$c}) {
        call("PRCTL", 24, $c, 0, 0, 0);    # PR_CAPBSET_DROP; the kernel may know fewer
    } elsif ($c < 32) {
        $low |= 1 << $c;
    } else {
        $high |= 1 << ($c - 32);
    }
}
my ($header, $data) = (pack("Ii", 0x20080522, 0), pack("I6", $low, $low, 0, $high, $high, 0));
must("CAPSET", $header, $data);    # _LINUX_CAPABILITY_VERSION_3

# This process stays as pid 1 and collects the processes that scripts leave.
my $pid = fork;
die "ingot: failed: starting the scripts: $!\n" if !defined $pid;
if ($pid == 0) {
    %ENV = (
        PATH => "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        HOME => "/root", LC_ALL => "C.UTF-8", TZ => "UTC",
        DEBIAN_FRONTEND => "noninteractive", DEBCONF_NONINTERACTIVE_SEEN => "true", DEBCONF_NOWARNINGS => "yes",
        SOURCE_DATE_EPOCH => $ENV{EPOCH}, PYTHONDONTWRITEBYTECODE => 1,
    );
    exec "/bin/sh", "/.ingot/configure";
    die "ingot: failed: starting the scripts: $!\n";
}
while ((my $ended = wait) > 0) {
    exit($? & 127 ? 128 + ($? & 127) : $? >> 8) if $ended == $pid;
}
