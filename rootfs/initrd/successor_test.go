package initrd

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"aead.dev/minisign"

	"ingot"
)

// replaced returns the statement by which a key makes another one its successor.
func replaced(t *testing.T, by minisign.PrivateKey, use ingot.KeyUse, next minisign.PublicKey) ingot.Successor {
	t.Helper()
	text, err := next.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	key := string(text) + "\n"
	return ingot.Successor{Key: key, Signature: string(minisign.Sign(by, ingot.SuccessorText(use, key)))}
}

// TestTicketOfSuccessor: an initramfs accepts tickets by the key that it holds and by those that
// replaced it in turn, each signed by the one before, and by no other.
func TestTicketOfSuccessor(t *testing.T) {
	first, firstSecret := newKey(t)
	second, secondSecret := newKey(t)
	third, thirdSecret := newKey(t)
	stranger, strangerSecret := newKey(t)
	boot := ingot.NewBootID([16]byte{1})
	text, err := json.Marshal(ingot.Ticket{Boot: boot, Nonce: "n", Expires: time.Time{}.Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	a, b := replaced(t, firstSecret, ingot.KeyServer, second), replaced(t, secondSecret, ingot.KeyServer, third)
	changed := a
	changed.Key = replaced(t, strangerSecret, ingot.KeyServer, stranger).Key
	many := make([]ingot.Successor, ingot.MaxSuccessors)
	for _, c := range []struct {
		name   string
		holds  minisign.PublicKey
		list   []ingot.Successor
		signer minisign.PrivateKey
		want   error
	}{
		{"replaced once", first, []ingot.Successor{a}, secondSecret, nil},
		{"replaced twice", first, []ingot.Successor{a, b}, thirdSecret, nil},
		{"an image of the time between", second, []ingot.Successor{a, b}, thirdSecret, nil},
		{"a newer image", third, []ingot.Successor{a, b}, thirdSecret, nil},
		{"an old key that is kept for older images", first, []ingot.Successor{a, b}, firstSecret, nil},
		{"nobody replaced it", first, nil, secondSecret, ErrTicketKey},
		{"a link is missing", first, []ingot.Successor{b}, thirdSecret, ErrTicketKey},
		{"a newer image, an older key", third, []ingot.Successor{a, b}, firstSecret, ErrTicketKey},
		{"a stranger's successor", first, []ingot.Successor{replaced(t, strangerSecret, ingot.KeyServer, stranger)},
			strangerSecret, ErrTicketKey},
		{"a stranger at the end", first, []ingot.Successor{a, replaced(t, strangerSecret, ingot.KeyServer, stranger)},
			strangerSecret, ErrTicketKey},
		{"another key under the signature", first, []ingot.Successor{changed}, strangerSecret, ErrTicketKey},
		{"a successor for releases", first, []ingot.Successor{replaced(t, firstSecret, ingot.KeyRelease, second)},
			secondSecret, ErrTicketKey},
		{"not a key", first, []ingot.Successor{{Key: "x",
			Signature: string(minisign.Sign(firstSecret, ingot.SuccessorText(ingot.KeyServer, "x")))}, a}, secondSecret, nil},
		{"too many", first, append(many, a), secondSecret, ErrTicketKey},
	} {
		s := ingot.SignedTicket{Ticket: text, Signature: string(minisign.Sign(c.signer, text)), ServerKeys: c.list}
		if _, err := verifyTicket(s, c.holds, boot, "n", 0); !errors.Is(err, c.want) || (c.want == nil && err != nil) {
			t.Errorf("%s: verifyTicket = %v; want %v", c.name, err, c.want)
		}
	}
}

// TestImageOfSuccessor: an image that was signed again by a later release key is accepted.
func TestImageOfSuccessor(t *testing.T) {
	first, firstSecret := newKey(t)
	second, secondSecret := newKey(t)
	config := []byte(`{"schema":1,"root":{"size":5},"chunks":[{"size":5}]}`)
	oci := []byte(`{"config":{"digest":"` + string(ingot.DigestOf(config)) + `"}}`)
	list := []ingot.Successor{replaced(t, firstSecret, ingot.KeyRelease, second)}
	signedBy := func(k minisign.PrivateKey) imageDocuments {
		return imageDocuments{OCI: oci, Signature: minisign.Sign(k, oci), Config: config}
	}
	for _, c := range []struct {
		name   string
		signer minisign.PrivateKey
		list   []ingot.Successor
		want   error
	}{
		{"the old key", firstSecret, list, nil},
		{"its successor", secondSecret, list, nil},
		{"nobody replaced it", secondSecret, nil, ErrImageKey},
		{"a successor for tickets", secondSecret,
			[]ingot.Successor{replaced(t, firstSecret, ingot.KeyServer, second)}, ErrImageKey},
	} {
		_, err := verifyImage(signedBy(c.signer), ingot.DigestOf(oci), follow(first, ingot.KeyRelease, c.list)...)
		if !errors.Is(err, c.want) || (c.want == nil && err != nil) {
			t.Errorf("%s: verifyImage = %v; want %v", c.name, err, c.want)
		}
	}
}
