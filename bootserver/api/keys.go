package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"ingot"
	"ingot/bootserver/access"
)

// Keys is what is done with the keys of the server's store. It is a part of Images.
type Keys interface {
	// TrustKey takes images that another release key signed.
	TrustKey(ctx context.Context, q KeyRequest) (Key, error)
	// DistrustKey takes no more images of a release key, or withdraws a replaced key; that needs force
	// while machines need images that hold it.
	DistrustKey(ctx context.Context, name string, force bool) (Key, error)
	// SigningKeys lists the keys that sign tickets and images, those that were replaced too, and which
	// images and machines each one concerns.
	SigningKeys(ctx context.Context) ([]SigningKey, error)
	// RotateKey replaces the server key by a new one, or records that the release key was replaced. It
	// returns the old key.
	RotateKey(ctx context.Context, q RotateRequest) (SigningKey, error)
}

// KeyRequest is a release key that is to be trusted.
type KeyRequest struct {
	Name string `json:"name" maxLength:"64"`
	Key  string `json:"key" maxLength:"1000"` // as minisign writes a public key
}

// Key is a release key whose images the store takes.
type Key struct {
	Name string `json:"name"`
	ID   string `json:"id"` // as minisign prints it
}

// KeyState says what a SigningKey is good for.
type KeyState string

// The states of keys.
const (
	KeyInUse      KeyState = "in-use"     // it signs tickets, or images that are built
	KeyTrusted    KeyState = "trusted"    // a release key of another store
	KeyReplaced   KeyState = "replaced"   // what it signed is accepted
	KeyLeaked     KeyState = "leaked"     // replaced; images that hold it must be built again
	KeyDistrusted KeyState = "distrusted" // replaced and withdrawn: no image that holds it is served
)

// SigningKey is a key of the store, and the images that it concerns.
type SigningKey struct {
	Use       ingot.KeyUse `json:"use" enum:"server,release"`
	ID        string       `json:"id"` // as minisign prints it
	Name      string       `json:"name,omitempty" doc:"For DELETE /v1/keys/{ref}."`
	State     KeyState     `json:"state" enum:"in-use,trusted,replaced,leaked,distrusted"`
	Replaced  time.Time    `json:"replaced,omitzero"`
	Successor string       `json:"successor,omitempty" doc:"ID of the key that replaced it."`
	// the private half of a replaced server key is kept, for images that cannot follow
	Kept   bool       `json:"kept,omitempty"`
	Images []KeyImage `json:"images" doc:"Images whose machines accept what the key signs."`
}

// KeyImage is an image that a key concerns.
type KeyImage struct {
	Digest ingot.Digest `json:"digest"`
	Name   string       `json:"name"`
	// its initramfs has the key; otherwise it has an older one and follows it
	Holds bool `json:"holds"`
	// it accepts successors of the keys that it has
	Follows  bool         `json:"follows"`
	Machines []KeyMachine `json:"machines"`
}

// KeyMachine is a machine that needs an image.
type KeyMachine struct {
	Machine ingot.MachineID `json:"machine"`
	Name    string          `json:"name"`
	Runs    bool            `json:"runs"` // it booted the image last
	Why     string          `json:"why"`
}

// RotateRequest says which key is replaced.
type RotateRequest struct {
	Use    ingot.KeyUse `json:"use" enum:"server,release"`
	Leaked bool         `json:"leaked,omitempty" doc:"Others have the private half."`
	Old    string       `json:"old,omitempty" maxLength:"16" doc:"ID of a release key that the host replaced."`
}

func keyRoutes(r *routes, b Keys) {
	type keyIn struct{ Body KeyRequest }
	add(r, "POST /v1/keys", access.Admin, "Take images that another release key signed",
		func(ctx context.Context, in *keyIn) (Key, error) {
			return b.TrustKey(ctx, in.Body)
		})
	type nameIn struct {
		Ref   string `path:"ref" maxLength:"64" doc:"Name of the key."`
		Force bool   `query:"force" doc:"Although machines need images that hold the replaced key."`
	}
	add(r, "DELETE /v1/keys/{ref}", access.Admin, "Take no more images of a release key, or withdraw a replaced key",
		func(ctx context.Context, in *nameIn) (Key, error) {
			return b.DistrustKey(ctx, in.Ref, in.Force)
		})
	add(r, "GET /v1/keys", access.Read, "The keys that sign tickets and images, and which images they concern",
		func(ctx context.Context, _ *nothingIn) ([]SigningKey, error) { return b.SigningKeys(ctx) })
	type rotateIn struct{ Body RotateRequest }
	add(r, "POST /v1/keys/rotate", access.Admin, "Replace the server key, or record that the release key was replaced",
		func(ctx context.Context, in *rotateIn) (SigningKey, error) { return b.RotateKey(ctx, in.Body) })
}

// TrustKey takes images that another release key signed.
func (c *Client) TrustKey(ctx context.Context, q KeyRequest) (k Key, err error) {
	return k, c.call(ctx, http.MethodPost, "keys", q, &k)
}

// DistrustKey takes no more images of a release key.
func (c *Client) DistrustKey(ctx context.Context, name string, force bool) (k Key, err error) {
	path := "keys/" + url.PathEscape(name)
	if force {
		path += "?force=true"
	}
	return k, c.call(ctx, http.MethodDelete, path, nil, &k)
}

// SigningKeys lists the keys of the server's store.
func (c *Client) SigningKeys(ctx context.Context) ([]SigningKey, error) {
	return list[SigningKey](ctx, c, "keys")
}

// RotateKey replaces the server key.
func (c *Client) RotateKey(ctx context.Context, q RotateRequest) (k SigningKey, err error) {
	return k, c.patient(longPatience).call(ctx, http.MethodPost, "keys/rotate", q, &k)
}
