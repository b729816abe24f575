# Runs inside the root: the preinst scripts, then dpkg over everything.
set -u
umask 022
cd /
export DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1
export DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= DPKG_FORCE=unsafe-io
export DPKG_RUNNING_VERSION="$(dpkg-query --showformat '${Version}' --show dpkg)"
export DPKG_MAINTSCRIPT_PACKAGE DPKG_MAINTSCRIPT_ARCH
options='--force-unsafe-io --log=/dev/null'

# Answers are stored before a package asks.
if [ -e /.ingot/debconf ]; then
	mkdir -p /var/cache/debconf
	if ! debconf-set-selections /.ingot/debconf </dev/null; then
		echo "ingot: failed: debconf: it cannot store the answers of the profile"
		exit 1
	fi
fi

# A preinst runs from where dpkg puts it; debconf learns the package's name there.
new=/var/lib/dpkg/tmp.ci
while read -r DPKG_MAINTSCRIPT_PACKAGE DPKG_MAINTSCRIPT_ARCH needs; do
	ln -sfn "/.ingot/new/$DPKG_MAINTSCRIPT_PACKAGE" $new
	$new/preinst install </dev/null && continue
	# Some need what they depend on to work already.
	echo "ingot: $DPKG_MAINTSCRIPT_PACKAGE needs configured packages first"
	rm $new
	dpkg $options --configure $needs </dev/null
	ln -sfn "/.ingot/new/$DPKG_MAINTSCRIPT_PACKAGE" $new
	$new/preinst install </dev/null && continue
	echo "ingot: failed: $DPKG_MAINTSCRIPT_PACKAGE: its preinst script"
	exit 1
done </.ingot/preinst
rm -f $new
unset DPKG_MAINTSCRIPT_NAME DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT DPKG_MAINTSCRIPT_PACKAGE
unset DPKG_MAINTSCRIPT_ARCH DPKG_FORCE DPKG_RUNNING_VERSION

# Files that a preinst has diverted belong elsewhere (dpkg-divert(1)).
while read -r from && read -r to && read -r by; do
	[ "$by" != : ] && [ -e "$from" ] && [ ! -e "$to" ] || continue
	for list in $(grep -lxF -e "$from" /var/lib/dpkg/info/*.list); do
		case "$list" in
		/var/lib/dpkg/info/"$by".list | /var/lib/dpkg/info/"$by":*.list) ;;
		*) mv "$from" "$to" && break ;;
		esac
	done
done </var/lib/dpkg/diversions

set -- /.ingot/late/*.deb
[ ! -e "$1" ] || dpkg $options --force-depends --unpack "$@" </dev/null || exit 1
exec dpkg $options --configure --pending </dev/null
