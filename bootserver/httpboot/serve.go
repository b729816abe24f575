package httpboot

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// Serve answers requests at l until ctx ends or l is closed. Then answers under
// way get a few seconds to finish; machines resume the others. It may run for
// several listeners at once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return Serve(ctx, l, &http.Server{
		Handler: s, ConnState: s.connections.track, MaxHeaderBytes: maxHeader,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		DisableGeneralOptionsHandler: true, // OPTIONS * gets 404 like other paths
		ErrorLog:                     ErrorLog(s.log),
	})
}

// ErrorLog is the log of an http.Server. Its messages about clients, such as a
// closed connection or a malformed request, are logged at debug level. A panic of
// a handler is an error, logged with its stack.
func ErrorLog(l *slog.Logger) *log.Logger { return log.New(errorLog{l}, "", 0) }

type errorLog struct{ log *slog.Logger }

// Write logs one line, or a panic with its stack; package log makes one call for each.
func (e errorLog) Write(b []byte) (int, error) {
	text := strings.TrimSpace(string(b))
	first, stack, _ := strings.Cut(text, "\n")
	if strings.Contains(first, "panic serving ") { // of both http and http2
		e.log.Error(first, "stack", stack)
	} else {
		e.log.Debug(text)
	}
	return len(b), nil
}

// grace is how long answers may continue after ctx ended.
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
	if !stop() { // Serve returns as soon as Shutdown begins
		<-drained
	}
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
