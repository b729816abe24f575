package bootserver

import (
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"ingot/bootserver/config"
)

// TestReloadOutlivesAPanic: a file that our reader panics over is an error, not
// the end of the server.
func TestReloadOutlivesAPanic(t *testing.T) {
	s := &Server{group: &errgroup.Group{}, log: slog.New(slog.DiscardHandler),
		conf: Config{Reread: func() (config.Config, error) { panic("no rule for maps") }}}
	if _, err := s.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "no rule for maps") {
		t.Errorf("Reload = %v; want an error that tells the panic", err)
	}
}
