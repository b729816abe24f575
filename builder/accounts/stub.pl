#!/usr/bin/perl
# Stands in for adduser, addgroup, useradd, groupadd and systemd-sysusers while packages are
# configured. It runs the program that was called with the same arguments, and adds the number of
# the account where the caller leaves the choice to the program. Everything else is the program's.
use strict;
use warnings;

my $dir = '/.ingot/accounts';
my $original = '/.ingot/original';
my ($tool) = $0 =~ m{([^/]+)$};
my %number = (user => read_numbers("$dir/uids"), group => read_numbers("$dir/gids"));

# The options of useradd(8) and groupadd(8) that take a value.
my %valued = (
	useradd => { map { $_ => 1 } qw(-b -c -d -e -f -g -G -k -K -p -P -R -s -u -Z --base-dir --comment --home
		--home-dir --expiredate --inactive --gid --groups --skel --key --password --prefix --root --shell --uid
		--selinux-user --selinux-range) },
	groupadd => { map { $_ => 1 } qw(-g -K -p -P -R -U --gid --key --password --prefix --root --users) },
);

# The folders of sysusers.d(5), in the order in which they are searched.
my @sysusers = qw(/etc/sysusers.d /run/sysusers.d /usr/local/lib/sysusers.d /usr/lib/sysusers.d);

if ($tool eq 'adduser' || $tool eq 'addgroup') { adduser() }
elsif ($tool eq 'useradd') { useradd() }
elsif ($tool eq 'groupadd') { groupadd() }
elsif ($tool eq 'systemd-sysusers') { sysusers() }
run($tool, @ARGV);

# run replaces this program by the one that was called.
sub run {
	my ($name, @arguments) = @_;
	symlink('adduser', "$original/addgroup"); # the program looks at its name
	exec { "$original/$name" } $name, @arguments;
	die "ingot: cannot run $original/$name: $!\n";
}

sub read_numbers {
	my ($file) = @_;
	my %numbers;
	open(my $in, '<', $file) or die "ingot: $file: $!\n";
	while (<$in>) {
		$numbers{$1} = $2 if /^([^:]+):(\d+)$/;
	}
	return \%numbers;
}

# slot is the number that a name gets unless another name has it: see slotOf in accounts.go.
sub slot {
	my $hash = 2166136261;
	$hash = (($hash ^ ord) * 16777619) & 0xffffffff for split //, shift;
	return 200 + $hash % 700;
}

# is_free reports whether no other name has a number, or is to get it.
sub is_free {
	my ($name, $n) = @_;
	for my $kind ('user', 'group') {
		my $of = $number{$kind};
		return 0 if grep { $_ ne $name && $of->{$_} == $n } keys %$of;
	}
	my ($user, $group) = (scalar getpwuid($n), scalar getgrgid($n));
	return (!defined $user || $user eq $name) && (!defined $group || $group eq $name);
}

# number_of returns the number of a system user or group. A name without one gets the number that
# List.Number gives it, unless several new names lead to one number: then all is configured again.
sub number_of {
	my ($kind, $name) = @_;
	return $number{$kind}{$name} if defined $number{$kind}{$name};
	my $other = $number{$kind eq 'user' ? 'group' : 'user'}{$name};
	my $slot = defined $other && is_free($name, $other) ? $other : slot($name);
	for (1 .. 700) {
		last if is_free($name, $slot);
		$slot = 200 + ($slot - 200 + 1) % 700;
	}
	return $number{$kind}{$name} = $slot;
}

sub is_known { return defined $number{user}{$_[0]} || defined $number{group}{$_[0]} }

# adduser gives the numbers to adduser and addgroup by their pools (adduser.conf(5)).
sub adduser {
	return if !@ARGV;
	my $name = $ARGV[-1];
	if (grep { /^--?sy(s|st|ste|stem)?$/ } @ARGV) {
		number_of($_, $name) for 'user', 'group';
	}
	for (['uids', 'user'], ['gids', 'group']) {
		my ($file, $kind) = @$_;
		write_file("$dir/pool.$file", map { "$_:$number{$kind}{$_}\n" } grep { /^[_a-zA-Z0-9-]+$/ }
			sort keys %{$number{$kind}});
	}
	my @config;
	if (open(my $in, '<', '/etc/adduser.conf')) { @config = <$in> }
	push @config, "\nUID_POOL=$dir/pool.uids\nGID_POOL=$dir/pool.gids\n";
	# A system account keeps being one when its number is not that of one.
	for (['LAST_SYSTEM_UID', 'user'], ['LAST_SYSTEM_GID', 'group']) {
		my $n = $number{$_->[1]}{$name};
		push @config, "$_->[0]=$n\n" if defined $n && $n > 999;
	}
	write_file("$dir/adduser.conf", @config);
	run($tool, '--conf', "$dir/adduser.conf", @ARGV);
}

# parse takes the arguments of useradd or groupadd apart: the options, each with its value if it
# takes one, and the name.
sub parse {
	my (@options, @names);
	my @rest = @ARGV;
	while (defined(my $word = shift @rest)) {
		if ($word eq '--') { push @names, @rest; last }
		if ($word =~ /^(--[^=]+)=(.*)$/s) { push @options, [$1, $2] }
		elsif ($word =~ /^--/) { push @options, $valued{$tool}{$word} ? [$word, shift @rest] : [$word] }
		elsif ($word =~ /^-(.+)$/s) {
			my $letters = $1;
			while ($letters =~ s/^(.)//s) {
				my $option = "-$1";
				if (!$valued{$tool}{$option}) { push @options, [$option]; next }
				push @options, [$option, length $letters ? $letters : shift @rest];
				last;
			}
		}
		else { push @names, $word }
	}
	return (\@options, @names == 1 ? $names[0] : undef);
}

# has reports whether one of some options is given.
sub has {
	my ($options, @wanted) = @_;
	return scalar grep { my $option = $_->[0]; grep { $option eq $_ } @wanted } @$options;
}

# elsewhere reports whether the account is made in another root, or none is made.
sub elsewhere { return has($_[0], qw(-R --root -P --prefix -D --defaults -h --help)) }

sub useradd {
	my ($options, $name) = parse();
	my $system = has($options, qw(-r --system));
	return if !defined $name || elsewhere($options) || !($system || is_known($name)) || defined getpwnam($name);
	my @added;
	if (!has($options, qw(-u --uid))) { push @added, '-u', number_of('user', $name) }
	if (!has($options, qw(-g --gid -N --no-user-group)) && !defined getgrnam($name)) {
		# useradd would make the group and choose its number.
		my @group = ($system ? '-r' : (), '-g', number_of('group', $name), $name);
		system { "$original/groupadd" } 'groupadd', @group;
		exit($? >> 8 || 1) if $? != 0;
		@$options = grep { $_->[0] ne '-U' && $_->[0] ne '--user-group' } @$options;
		push @added, '-g', $name;
	}
	run($tool, @added, (map { @$_ } @$options), '--', $name) if @added;
}

sub groupadd {
	my ($options, $name) = parse();
	return if !defined $name || elsewhere($options) || has($options, qw(-g --gid)) || defined getgrnam($name);
	return if !has($options, qw(-r --system)) && !is_known($name);
	run($tool, '-g', number_of('group', $name), @ARGV);
}

sub sysusers {
	my @options = grep { /^-./ } @ARGV;
	my @names = grep { !/^-./ } @ARGV;
	return if grep { !/^--(inline|no-pager)$/ } @options; # of another root, or nothing is made
	my @texts;
	if (grep { $_ eq '--inline' } @options) { @texts = map { [split /^/, "$_\n"] } @names }
	else { @texts = map { [read_config($_)] } @names ? @names : all_configs() }
	return if !@texts;
	my @files;
	for my $text (@texts) {
		push @files, sprintf('%s/sysusers-%03d.conf', $dir, scalar @files);
		write_file($files[-1], with_numbers(@$text));
	}
	run($tool, @files);
}

# all_configs returns the paths of all configurations, by their names.
sub all_configs {
	my %path;
	for my $folder (reverse @sysusers) {
		for (glob("$folder/*.conf")) { $path{(m{([^/]+)$})[0]} = $_ }
	}
	return map { $path{$_} } sort keys %path;
}

sub read_config {
	my ($name) = @_;
	return <STDIN> if $name eq '-';
	my ($path) = $name =~ m{/} ? $name : grep { -e } map { "$_/$name" } @sysusers;
	open(my $in, '<', defined $path ? $path : $name) or run($tool, @ARGV); # it says what is wrong
	return <$in>;
}

# with_numbers puts numbers where lines of sysusers.d(5) leave the choice open.
sub with_numbers {
	my @lines = @_;
	my (%has, @out);
	for (@lines) {
		$has{group}{$2} = 1 if /^\s*(g)\s+(\S+)/;
		$has{user}{$2} = 1 if /^\s*(u!?)\s+(\S+)/;
	}
	my $group = sub {
		my ($name) = @_;
		return if $has{group}{$name}++ || defined getgrnam($name);
		push @out, "g $name " . number_of('group', $name) . "\n";
	};
	for my $line (@lines) {
		chomp $line;
		if ($line =~ m{^\s*(u!?)\s+(\S+)(?:\s+(\S+)(.*))?$}) {
			my ($type, $name, $id, $rest) = ($1, $2, $3, $4);
			$id = '-' if !defined $id;
			my $open = $id =~ m{^/} && !-e $id;
			if (($id eq '-' || $open) && !defined getpwnam($name)) {
				$group->($name);
				$line = "$type $name " . number_of('user', $name) . ":$name" . (defined $rest ? $rest : '');
			}
			elsif ($id =~ /^-:(.+)$/ && !defined getpwnam($name)) {
				$line = "$type $name " . number_of('user', $name) . ":$1" . (defined $rest ? $rest : '');
			}
		}
		elsif ($line =~ m{^\s*g\s+(\S+)(?:\s+-(\s.*)?)?$} && !defined getgrnam($1)) {
			$line = "g $1 " . number_of('group', $1);
		}
		elsif ($line =~ m{^\s*m\s+(\S+)\s+(\S+)}) { # makes what is missing
			my ($user, $into) = ($1, $2);
			$group->($into);
			if (!$has{user}{$user}++ && !defined getpwnam($user)) {
				$group->($user);
				push @out, "u $user " . number_of('user', $user) . ":$user\n";
			}
		}
		push @out, "$line\n";
	}
	return @out;
}

sub write_file {
	my ($path, @lines) = @_;
	open(my $out, '>', $path) or die "ingot: $path: $!\n";
	print $out @lines;
	close($out) or die "ingot: $path: $!\n";
}
