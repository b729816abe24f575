package secrets

// Databases are made on the machine, in the image's empty folder or on the volume that is mounted
// there. What a boot that ended in the middle left is made again; what was used is never touched.

// fillName is the script that makes a folder of a database whole.
const fillName = "fill"

// fill runs as the account of the database: what it wrote on a volume may be links.
const fill = `# Makes a folder whole: sh fill FOLDER LAST COMMAND... The folder may be the top of a volume. The
# command makes .ingot-new in it, of which everything is moved up, and at last the file or folder
# LAST. Where LAST is, the folder is whole.
set -eu
umask 077
folder=$1 last=$2
shift 2
cd "$folder"
others() { find . -mindepth 1 -maxdepth 1 ! -name lost+found ! -name .ingot ! -name .ingot-new "$@"; }
if [ -e "$last" ]; then
	rmdir .ingot-new 2>/dev/null || : # a boot ended just before this line
	exit
fi
if [ -d .ingot-new ]; then
	echo "$folder: a boot ended before all was made; making it again"
	others -exec rm -rf {} +
	rm -rf .ingot-new
elif [ -n "$(others -print -quit)" ]; then
	echo "$folder has files, but no $last. Move them away, or restore what is missing." >&2
	exit 1
fi
"$@"
find .ingot-new -mindepth 1 -maxdepth 1 ! -name "$last" -exec mv -t . {} +
sync -f .
mv ".ingot-new/$last" .
rmdir .ingot-new
sync -f .
`

// own is a shell function that gives a folder to an account, but no folder elsewhere that the account
// made a link to.
const own = `own() { # ACCOUNT MODE FOLDER
	[ ! -L "$3" ] || { echo "$3 is a link; mount the volume where it leads, or remove it" >&2; exit 1; }
	install -d -o "$1" -g "$1" -m "$2" "$3"
}
`

const makePostgreSQL = own + `for config in /etc/postgresql/*/main; do
	[ -d "$config" ] || continue
	version=${config#/etc/postgresql/} version=${version%/main} data=/var/lib/postgresql/${config#/etc/postgresql/}
	if [ ! -e "$data/PG_VERSION" ]; then
		for other in /var/lib/postgresql/*/main/PG_VERSION; do
			had=${other#/var/lib/postgresql/} had=${had%%/*}
			if [ -e "$other" ] && [ ! -d "/etc/postgresql/$had/main" ]; then
				echo "${other%/PG_VERSION} is of PostgreSQL $had, which this image lacks, so no empty cluster of version" \
					"$version is made beside it. Boot an image with both versions and run pg_upgradecluster, or move it away." >&2
				exit 1
			fi
		done
	fi
	own postgres 0755 /var/lib/postgresql
	own postgres 0755 "${data%/main}"
	own postgres 0700 "$data"
	runuser -u postgres -- /bin/sh /` + scriptDir + fillName + ` "$data" PG_VERSION \
		"/usr/lib/postgresql/$version/bin/initdb" --pgdata="$data/.ingot-new" --auth-local=peer \
		--auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --no-instructions
done
`

const makeMariaDB = own + `own mysql 0755 /var/lib/mysql
runuser -u mysql -- /bin/sh /` + scriptDir + fillName + ` /var/lib/mysql mysql mariadb-install-db \
	--datadir=/var/lib/mysql/.ingot-new --skip-test-db --auth-root-authentication-method=socket \
	--auth-root-socket-user=mysql
`
