# Makes the root: pid 1 in name spaces of its own, so that whatever it mounts
# and starts ends with it. The unpacked files are a tar on stdin, the finished
# tree is a tar on descriptor 3, everything is said on stderr. ROOT, EPOCH and
# SIZE (bytes of the tmpfs; empty: ROOT lies on a disk) are in the environment.
set -eu
umask 022
exec 1>&2

mounted=
if [ -n "$SIZE" ]; then
	mount -t tmpfs -o "mode=0755,size=$SIZE" ingot "$ROOT"
else
	trap 'cd /; for m in $mounted; do umount -l "$m"; done; rm -rf "$ROOT"' EXIT
fi
tar --extract --numeric-owner --same-permissions --delay-directory-restore --directory "$ROOT" --file -
exec </dev/null

# The devices that scripts use, by what the host has; nothing else is seen.
mkdir -p "$ROOT/dev" "$ROOT/proc"
mount -t tmpfs -o mode=0755 ingot "$ROOT/dev"
mounted="$ROOT/dev"
for device in null zero full random urandom tty; do
	: >"$ROOT/dev/$device"
	mount --bind "/dev/$device" "$ROOT/dev/$device"
done
mkdir -m 1777 "$ROOT/dev/shm"
ln -s /proc/self/fd "$ROOT/dev/fd"
ln -s /proc/self/fd/0 "$ROOT/dev/stdin"
ln -s /proc/self/fd/1 "$ROOT/dev/stdout"
ln -s /proc/self/fd/2 "$ROOT/dev/stderr"
mount -t proc proc "$ROOT/proc" || mount --rbind /proc "$ROOT/proc"
mounted="$ROOT/proc $mounted"

# Stubs are mounted over what they stand for.
mkdir -p "$ROOT/.ingot/original"
while read -r path stub; do
	[ -f "$ROOT$path" ] && [ ! -L "$ROOT$path" ] || continue
	cp -p "$ROOT$path" "$ROOT/.ingot/original/"
	mount --bind "$ROOT/.ingot/stub/$stub" "$ROOT$path"
	mounted="$ROOT$path $mounted"
done <"$ROOT/.ingot/quirks"

chroot "$ROOT" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
	LC_ALL=C.UTF-8 TZ=UTC DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true DEBCONF_NOWARNINGS=yes \
	SOURCE_DATE_EPOCH="$EPOCH" PYTHONDONTWRITEBYTECODE=1 /bin/sh /.ingot/configure 3>&-

# Whatever a script has left running ends here.
kill -9 -1 2>/dev/null || :
for m in $mounted; do umount -R "$m" 2>/dev/null || umount -l "$m"; done
mounted=
rm -rf "$ROOT/.ingot"
[ ! -e "$ROOT/usr/sbin/policy-rc.d.ingot" ] || rm "$ROOT/usr/sbin/policy-rc.d" "$ROOT/usr/sbin/policy-rc.d.ingot"
echo 'ingot: reading the tree'
tar --create --format=posix --pax-option='delete=atime,delete=ctime' --sort=name --mtime="@$EPOCH" --numeric-owner \
	--xattrs --xattrs-include='*' --one-file-system --exclude='./proc/*' --exclude='./dev/*' --directory "$ROOT" . >&3
