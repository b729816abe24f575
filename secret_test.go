package ingot

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"
)

func half(t testing.TB) (*ecdh.PrivateKey, Half) {
	t.Helper()
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k, k.PublicKey().Bytes()
}

func secretOf(t testing.TB, own *ecdh.PrivateKey, boot BootID, machine, server Half) BootSecret {
	t.Helper()
	s, err := NewBootSecret(own, boot, machine, server)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestBootSecret: both sides get the same secret, and another one for another boot or another half.
func TestBootSecret(t *testing.T) {
	boot := NewBootID([16]byte{1})
	m, machine := half(t)
	s, server := half(t)
	own := secretOf(t, m, boot, machine, server)
	if !bytes.Equal(own, secretOf(t, s, boot, machine, server)) || len(own) != 32 {
		t.Error("the two sides have different secrets")
	}
	o, other := half(t)
	for name, is := range map[string]BootSecret{
		"of another boot":          secretOf(t, m, NewBootID([16]byte{2}), machine, server),
		"with another server half": secretOf(t, m, boot, machine, other),
		"of another machine":       secretOf(t, s, boot, other, server),
		"of a stranger":            secretOf(t, o, boot, other, server),
	} {
		if bytes.Equal(own, is) {
			t.Errorf("the secret %s is the same", name)
		}
	}
	for name, bad := range map[string]Half{"nothing": nil, "short": make(Half, 31), "zeros": make(Half, 32),
		"a point of low order": append(Half{1}, make(Half, 31)...)} {
		if _, err := NewBootSecret(m, boot, machine, bad); !errors.Is(err, ErrBadHalf) {
			t.Errorf("a half that is %s: %v; want ErrBadHalf", name, err)
		}
	}
}

// TestSecretVector: what crosses the wire keeps its meaning, since images outlive servers. The values were
// computed by another implementation of RFC 7748, RFC 5869 and RFC 2104.
func TestSecretVector(t *testing.T) {
	k, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	o, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{9}, 32))
	if err != nil {
		t.Fatal(err)
	}
	s := secretOf(t, k, NewBootID([16]byte{1}), k.PublicKey().Bytes(), o.PublicKey().Bytes())
	m := Message{"POST", "/b/x/report", 5, []byte("{}")}
	a := Answer{204, 5, 5, nil}
	for what, c := range map[string]struct{ got, want string }{
		"secret":  {hex.EncodeToString(s), "c364122631f2cc64674cb063732fb3ae4d56894699ea48d8a4bf99e91b6149f5"},
		"message": {s.Prove(m).String(), "5 iiw3yWWZ4pkys_y5bUbcQcDBBWD3kqzUBnmZsjxwse4"},
		"answer":  {s.ProveAnswer(m.Part(), a).String(), "5 aJyS7Gth5U-lOgOArnjZU83f9AZRC8t0XGKZkAJQW7s"},
	} {
		if c.got != c.want {
			t.Errorf("%s = %s; want %s", what, c.got, c.want)
		}
	}
}

// TestProofs: a proof is of one message alone: of no other method, path, counter or body, and never of
// an answer; and it survives its text.
func TestProofs(t *testing.T) {
	key := BootSecret(bytes.Repeat([]byte{3}, 32))
	message := rapid.Custom(func(t *rapid.T) Message {
		return Message{rapid.SampledFrom([]string{"POST", "GET", "POS"}).Draw(t, "method"),
			"/b/" + rapid.StringMatching(`[0-9a-f]{0,4}/(report|events|console|T5:)`).Draw(t, "path"),
			rapid.Uint64Range(0, math.MaxUint64).Draw(t, "counter"), rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "body")}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := message.Draw(t, "a"), message.Draw(t, "b")
		p, err := ParseProof(key.Prove(a).String())
		if err != nil || p.Counter != a.Counter || !key.Proves(a, p.MAC) {
			t.Fatalf("%+v is not proven by its own proof (%v)", a, err)
		}
		same := a.Method == b.Method && a.Path == b.Path && a.Counter == b.Counter && bytes.Equal(a.Body, b.Body)
		if key.Proves(b, p.MAC) != same {
			t.Fatalf("the proof of %+v is one of %+v: %t", a, b, !same)
		}
		answer := Answer{int(b.Counter % 600), a.Counter, b.Counter, a.Body}
		if key.ProvesAnswer(a.Part(), answer, p.MAC) || key.Proves(a, key.ProveAnswer(a.Part(), answer).MAC) {
			t.Fatal("a proof is one of both directions")
		}
	})
	for _, text := range []string{"", "1", "x ", "1 x", "-1 " + key.Prove(Message{}).String()[2:], "1 AAAA"} {
		if _, err := ParseProof(text); !errors.Is(err, ErrBadProof) {
			t.Errorf("ParseProof(%q) = %v; want ErrBadProof", text, err)
		}
	}
}

// FuzzProof: any text is parsed or refused; what is parsed is written the same.
func FuzzProof(f *testing.F) {
	f.Add("1 " + BootSecret("x").Prove(Message{Counter: 1}).String()[2:])
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParseProof(text)
		if err != nil {
			return
		}
		if again, err := ParseProof(p.String()); err != nil || again.Counter != p.Counter ||
			!bytes.Equal(again.MAC, p.MAC) {
			t.Errorf("%q is read as %v and then %v, %v", text, p, again, err)
		}
	})
}
