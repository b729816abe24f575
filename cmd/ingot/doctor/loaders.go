package doctor

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ingot/builder"
)

// examineLoaders checks the boot loaders of the store at root against what was fetched.
func examineLoaders(root string) (list []Finding) {
	const check = "loaders"
	set, err := builder.StoredLoaders(root)
	folder := filepath.Join(root, "loaders")
	again := "remove " + filepath.Join(folder, "lock.json") + ", and run: ingot loaders"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Finding{found(check, Warning, "ingot loaders",
			"there are none yet; the first start downloads them from a Debian mirror")}
	case err != nil:
		return []Finding{found(check, Error, again, "%v", err)}
	}
	for _, name := range slices.Sorted(maps.Keys(set.Damaged)) {
		list = append(list, found(check, Error, "ingot loaders; then restart the server",
			"%s %v; it is not served", filepath.Join(folder, name), set.Damaged[name]))
	}
	own := unknownLoaders(folder, set)
	var lacking []string
	for _, name := range []string{"snponly.efi", "undionly.kpxe"} { // what most machines get first
		if _, known := set.Files[name]; !known && !slices.Contains(own, name) {
			lacking = append(lacking, name)
		}
	}
	if len(lacking) > 0 {
		list = append(list, found(check, Error, again, "missing or empty: %s", strings.Join(lacking, ", ")))
	}
	if len(set.Files) == 0 {
		return append(list, found(check, Warning, again,
			"an earlier version fetched the files in %s and recorded no digests: they cannot be checked", folder))
	}
	if len(own) > 0 {
		list = append(list, found(check, OK, "", "served besides, not fetched by ingot: %s", strings.Join(own, ", ")))
	}
	if len(list) == 0 || list[0].State == OK {
		list = append([]Finding{found(check, OK, "", "%d files have the content that was fetched", len(set.Files))}, list...)
	}
	return list
}

// unknownLoaders are the files of the folder whose digests are not known, except empty ones.
func unknownLoaders(folder string, set builder.LoaderSet) (own []string) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil // then all files of the set are damaged
	}
	for _, e := range entries {
		if _, known := set.Files[e.Name()]; known || !e.Type().IsRegular() || strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		if info, err := e.Info(); err == nil && info.Size() > 0 {
			own = append(own, e.Name())
		}
	}
	return own
}
