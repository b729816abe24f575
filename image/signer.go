package image

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"ingot"
)

// Signer signs tickets with the server key of a store. It follows rotations while it is open, and it
// never reads the private half of the release key. It is safe for concurrent use.
type Signer struct {
	dir string

	mu    sync.Mutex
	marks [3]fileMark
	keys  signingKeys
}

// signingKeys are what a Signer signs with.
type signingKeys struct {
	server           KeyPair
	kept             map[ingot.Digest]SecretKey // replaced server keys, by the digest of the public half
	servers, release []ingot.Successor
}

// fileMark tells versions of a file apart. Key files are replaced, never changed.
type fileMark struct {
	inode uint64
	time  syscall.Timespec
}

// OpenSigner reads the server key in a key folder, and creates one in a folder without.
func OpenSigner(dir string) (*Signer, error) {
	s := &Signer{dir: dir}
	if err := withKeys(dir, func() error {
		_, err := loadOrCreateKey(dir, string(ingot.KeyServer))
		return err
	}); err != nil {
		return nil, err
	}
	return s, s.follow()
}

// Public returns the public half of the key in use.
func (s *Signer) Public() (PublicKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.follow()
	return s.keys.server.Public, err
}

// Sign signs a ticket for a machine that boots an image. held is the digest of the server key that the
// image holds; empty if that is not known.
func (s *Signer) Sign(ticket []byte, comment string, im Image, held ingot.Digest) (ingot.SignedTicket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.follow(); err != nil {
		return ingot.SignedTicket{}, fmt.Errorf("signing a ticket: %w", err)
	}
	key := s.keys.server.Secret
	if kept, is := s.keys.kept[held]; is && !im.Manifest.Has(ingot.FeatureSuccessors) {
		key = kept
	}
	return ingot.SignedTicket{Ticket: ticket, Signature: key.Sign(ticket, comment), ServerKeys: s.keys.servers,
		ReleaseKeys: s.keys.release}, nil
}

// follow reads the keys again if a file changed.
func (s *Signer) follow() error {
	var marks [3]fileMark
	for i, name := range []string{"server.key", oldFile, "release.pub"} {
		if st, err := os.Stat(filepath.Join(s.dir, name)); err == nil {
			sys := st.Sys().(*syscall.Stat_t)
			marks[i] = fileMark{sys.Ino, sys.Mtim}
		}
	}
	if marks == s.marks {
		return nil
	}
	keys, err := readSigningKeys(s.dir)
	if err != nil {
		return err
	}
	s.keys, s.marks = keys, marks
	return nil
}

func readSigningKeys(dir string) (keys signingKeys, err error) {
	if keys.server, err = loadKey(filepath.Join(dir, "server.key")); err != nil {
		return keys, err
	}
	old, err := readOld(dir)
	if err != nil {
		return keys, err
	}
	keys.kept = map[ingot.Digest]SecretKey{}
	for _, o := range old {
		if !o.Kept || o.Distrusted {
			continue
		}
		pair, err := loadKey(keptFile(dir, o.ID))
		if err != nil {
			return keys, err
		}
		keys.kept[o.Digest()] = pair.Secret
	}
	keys.servers = successors(old, ingot.KeyServer, keys.server.Public)
	if release, err := readPublicKey(filepath.Join(dir, "release.pub")); err == nil {
		keys.release = successors(old, ingot.KeyRelease, release)
	}
	return keys, nil
}
