package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/catalog"
	"ingot/cmd/ingot/client"
	"ingot/image"
)

// readingTime bounds how long doctor reads the files of images that the running server has not read.
const readingTime = 20 * time.Second

// examineImages checks the images of the store at root. The files of those that the running server has
// verified are not read again.
func (d examination) examineImages(ctx context.Context, root string, running bool) []Finding {
	const check = "images"
	if _, err := os.Stat(filepath.Join(root, "images", "index.json")); err != nil {
		return nil // there are none yet; opening the store would make its folders
	}
	store, err := image.Open(ctx, root)
	if err != nil {
		return []Finding{found(check, Error, client.NextStep(err), "%v", err)}
	}
	images, err := catalog.New(store).List(ctx)
	if err != nil {
		return []Finding{found(check, Error, "restore the folder images of the store, or "+image.Repair, "%v", err)}
	}
	var reported []api.Image
	if running { // what it says spares reading; a server that does not answer has its own finding
		reported, _ = api.Dial(d.Socket(root)).Images(ctx)
	}
	if err := readImages(ctx, store, images, reported); err != nil {
		return []Finding{found(check, Error, client.NextStep(err), "%v", err)}
	}
	return imageFindings(images)
}

// readImages reads the files of images that nobody has read, as long as there is time, and notes what it found.
func readImages(ctx context.Context, store *image.Store, images []catalog.Listed, reported []api.Image) error {
	keys, err := image.ReadKeyring(filepath.Join(store.Root(), "keys"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readingTime)
	defer cancel()
	for i := range images {
		im := &images[i]
		if im.State != catalog.Complete {
			continue
		}
		if state, problem := reportedOf(reported, im.Digest); state == catalog.Verified || problem != nil {
			im.State, im.Err = state, problem
			continue
		}
		switch err := store.Verify(ctx, im.Image, keys.For(im.Digest)...); {
		case err == nil:
			im.State = catalog.Verified
		case ctx.Err() != nil:
			return nil // the rest stays unread
		default:
			im.State, im.Err = catalog.Damaged, err
		}
	}
	return nil
}

// reportedOf is what the running server says of an image.
func reportedOf(reported []api.Image, d ingot.Digest) (state string, problem error) {
	i := slices.IndexFunc(reported, func(t api.Image) bool { return t.Digest == d })
	if i < 0 {
		return "", nil
	}
	if reported[i].Problem != "" {
		problem = errors.New(reported[i].Problem)
	}
	return reported[i].State, problem
}

// imageFindings has one finding for each image that cannot be served, and one for the others.
func imageFindings(images []catalog.Listed) (list []Finding) {
	verified, unread := 0, []string{}
	for _, im := range images {
		name := im.Name.String()
		if name == "" {
			name = im.Digest.Short()
		}
		switch im.State {
		case catalog.Verified:
			verified++
		case catalog.Complete:
			unread = append(unread, name)
		case catalog.Untrusted:
			list = append(list, found("image "+name, Warning,
				"if you trust its signer: ingot key trust FILE.pub; else "+image.Repair, "%v", im.Err))
		default:
			text, _ := strings.CutSuffix(im.Err.Error(), "; "+image.Repair)
			list = append(list, found("image "+name, Error, image.Repair, "%s", text))
		}
	}
	text := fmt.Sprintf("%d of %d were verified, every byte", verified, len(images))
	fix := ""
	if len(unread) > 0 {
		text += fmt.Sprintf("; %d are complete, but there was no time to read them", len(unread))
		fix = "ingot image verify " + unread[0]
	}
	return append(list, found("images", OK, fix, "%s", text))
}
