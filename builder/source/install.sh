# Makes the root: pid 1 in name spaces of its own, so that whatever it mounts
# and starts ends with it. The unpacked files are a tar on stdin, the finished
# tree is a tar on descriptor 3, everything is said on stderr. ROOT, EPOCH and
# SIZE (bytes of the tmpfs; empty: ROOT lies on a disk) are in the environment,
# SETUP and CONFINE are the scripts that follow, OWN is a file to leave out.
set -eu
umask 022
exec 1>&2

if [ -n "$SIZE" ]; then
	# Over a folder that everybody may enter: root in here is another user outside.
	ROOT=/tmp
	mount -t tmpfs -o "mode=0755,size=$SIZE" ingot "$ROOT"
else
	trap 'cd /; rm -rf "$ROOT" 2>/dev/null || :' EXIT
fi
tar --extract --numeric-owner --same-permissions --delay-directory-restore --xattrs --xattrs-include='*' \
	--directory "$ROOT" --file -
exec </dev/null

# Nobody in here needs further user namespaces, which open much of the kernel.
echo 0 2>/dev/null >/proc/sys/user/max_user_namespaces || :
ROOT="$ROOT" unshare --mount --pid --fork --kill-child -- /bin/sh -c "$SETUP" 3>&-

# No path below is followed: what the scripts left there may lead anywhere.
echo 'ingot: reading the tree'
tar --create --format=posix --pax-option='delete=atime,delete=ctime' --sort=name --mtime="@$EPOCH" --numeric-owner \
	--xattrs --xattrs-include='*' --one-file-system --anchored --exclude='./proc/*' --exclude='./dev/*' \
	--exclude=./.ingot ${OWN:+"--exclude=./$OWN"} --directory "$ROOT" . >&3
