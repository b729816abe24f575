package httpboot

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Serve answers what comes in at l until ctx ends or l is closed, and then lets
// running answers finish for a few seconds: machines resume where they were.
// It may run for several listeners at once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return Serve(ctx, l, &http.Server{Handler: s, ConnState: s.callers.track, MaxHeaderBytes: maxHeader,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		DisableGeneralOptionsHandler: true, // OPTIONS * is not for us either
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)})
}

// grace is how long answers may go on after the end was asked for.
const grace = 3 * time.Second

// Serve runs an HTTP server on l until ctx ends or l is closed.
func Serve(ctx context.Context, l net.Listener, s *http.Server) error {
	drained := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(drained)
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if s.Shutdown(late) != nil {
			_ = s.Close()
		}
	})
	err := s.Serve(l)
	if !stop() { // Serve returns as soon as the draining begins
		<-drained
	}
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
