# Prepares what the scripts of the packages see: pid 1 of the mount and process
# namespaces that they run in.
set -eu
mount --bind "$ROOT" "$ROOT"
cd "$ROOT"

# The devices that scripts use, by what the host has; nothing else is seen.
mkdir -p dev proc
mount -t tmpfs -o mode=0755 ingot dev
for device in null zero full random urandom tty; do
	: >"dev/$device"
	mount --bind "/dev/$device" "dev/$device"
done
mkdir -m 1777 dev/shm
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr

# Processes of this namespace only, and nothing of the kernel can be changed
# (the paths that runc masks, opencontainers/runtime-spec config-linux.md).
mount -t proc -o nosuid,nodev,noexec proc proc || mount --rbind /proc proc
for path in sys bus fs irq; do
	[ -e "proc/$path" ] || continue
	mount --bind "proc/$path" "proc/$path"
	mount -o remount,bind,ro "proc/$path"
done
for path in acpi asound scsi; do
	[ ! -d "proc/$path" ] || mount -t tmpfs -o ro ingot "proc/$path"
done
for path in kcore keys latency_stats sched_debug sysrq-trigger timer_list; do
	[ ! -e "proc/$path" ] || mount --bind /dev/null "proc/$path"
done

# Stubs are mounted over what they stand for.
mkdir -p .ingot/original
while read -r path stub; do
	[ -f ".$path" ] && [ ! -L ".$path" ] || continue
	cp -p ".$path" .ingot/original/
	mount --bind ".ingot/stub/$stub" ".$path"
done <.ingot/quirks

exec perl -e "$CONFINE"
