package bootserver

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/config"
)

// How the files of the operator's certificate are followed.
const (
	certificateEvery = 5 * time.Second
	doubtsEvery      = 24 * time.Hour // what is wrong with it is logged again
)

// fileMark tells whether a file is still the one that was read; the zero value is that of no file.
type fileMark struct {
	device, inode     uint64
	size              int64
	modified, changed syscall.Timespec
}

func markOf(file string) (m fileMark) {
	if info, err := os.Stat(file); err == nil {
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			m = fileMark{s.Dev, s.Ino, s.Size, s.Mtim, s.Ctim}
		}
	}
	return m
}

// certificate follows the files of the certificate that an operator has for the API.
type certificate struct {
	mu        sync.Mutex
	api       config.API
	marks     [2]fileMark // of the two files when they were read
	unsettled bool        // they could not be used, maybe because just one of them is the new one
	logged    time.Time   // when its doubts were
}

// readCertificate examines the files of a configuration, with their marks from before.
func (s *Server) readCertificate(c config.API) (pair *tls.Certificate, doubts []access.Doubt, marks [2]fileMark) {
	if c.Certificate == "" {
		return nil, nil, marks
	}
	marks = [2]fileMark{markOf(c.Certificate), markOf(c.Key)}
	pair, doubts = access.ExaminePair(c.Certificate, c.Key, c.Names, s.conf.Now())
	return pair, doubts, marks
}

// setCertificate presents the certificate of a configuration from now on. At a start, one that cannot
// be used is logged: machines must boot all the same, and that of the server's own CA is presented. So
// is one at a reload that names the same files, and the old one is presented on.
func (s *Server) setCertificate(c config.API) {
	l := &s.certificate
	l.mu.Lock()
	defer l.mu.Unlock()
	pair, doubts, marks := s.readCertificate(c)
	same := c.Certificate == l.api.Certificate && c.Key == l.api.Key
	l.api, l.marks, l.unsettled = c, marks, false
	if pair != nil || !same {
		s.ca.Present(pair)
	}
	s.logDoubts(doubts)
}

// checkCertificate is the error of a reload that names another certificate, which cannot be used.
func (s *Server) checkCertificate(old, now config.API) error {
	if now.Certificate == "" || now.Certificate == old.Certificate && now.Key == old.Key {
		return nil
	}
	if _, err := access.LoadPair(now.Certificate, now.Key); err != nil {
		return fmt.Errorf("the certificate of the API (api.certificate): %w", err)
	}
	return nil
}

// followCertificate reads the files again after one of them changed. What cannot be used changes
// nothing, and is logged when it is still so at the next look.
func (s *Server) followCertificate() {
	l := &s.certificate
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.api.Certificate == "" {
		return
	}
	now := s.conf.Now()
	same := l.marks == [2]fileMark{markOf(l.api.Certificate), markOf(l.api.Key)}
	if same && !l.unsettled && now.Sub(l.logged) < doubtsEvery {
		return
	}
	pair, doubts, marks := s.readCertificate(l.api)
	confirmed := same && l.unsettled
	l.marks, l.unsettled = marks, pair == nil && !confirmed
	switch old := s.ca.Presented(); {
	case pair == nil && l.unsettled:
		return
	case pair == nil:
		s.log.Error("the new certificate of the API cannot be used; the old one is presented on", "err", doubts[0].Text,
			"fix", doubts[0].Fix)
		l.logged = now
		return
	case old == nil || !old.Leaf.Equal(pair.Leaf):
		s.log.Info("the certificate of the API was replaced", "names", pair.Leaf.DNSNames, "until", pair.Leaf.NotAfter)
	}
	s.ca.Present(pair)
	s.logDoubts(doubts)
}

// logDoubts logs what is wrong with the operator's certificate. s.certificate.mu is held.
func (s *Server) logDoubts(doubts []access.Doubt) {
	s.certificate.logged = s.conf.Now()
	for _, d := range doubts {
		if d.Broken {
			s.log.Error("the certificate of the API (api.certificate): "+d.Text, "fix", d.Fix)
		} else {
			s.log.Warn("the certificate of the API (api.certificate): "+d.Text, "fix", d.Fix)
		}
	}
}
