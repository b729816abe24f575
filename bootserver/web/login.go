package web

import (
	"errors"
	"net/http"
	"net/url"
	"path"
	"strings"

	"ingot/bootserver/access"
)

// loginData is what the login page shows.
type loginData struct {
	Note  string // what was wrong; empty: nothing
	Next  string // the path to go on to
	Local bool   // nobody can log in here: the connection is not over TLS
}

// loginNote is what to say to a browser whose request was refused; nothing to one that sent nothing.
func loginNote(err error) string {
	switch {
	case errors.Is(err, access.ErrNobody):
		return ""
	case errors.Is(err, access.ErrRevoked):
		return "The token or certificate was revoked."
	case errors.Is(err, access.ErrExpired):
		return "The token or certificate has expired."
	case errors.Is(err, errSessionOver):
		return "The session has ended."
	case errors.Is(err, access.ErrTooManyWrong):
		return "Too many wrong tokens came from this address. Wait a few seconds."
	case errors.Is(err, access.ErrPlain):
		return "A token travels over TLS only. Open this page with https."
	}
	return "This server knows no such token."
}

// loginPage asks for a token.
func (s *Server) loginPage(w http.ResponseWriter, r *http.Request, status int, note string) {
	next := r.FormValue("next")
	if r.URL.Path != "/login" {
		next = r.URL.RequestURI()
	}
	s.write(w, r, status, "login", loginData{Note: note, Next: localPath(next), Local: r.TLS == nil})
}

// localPath returns a path of this host to go on to, whatever a link says.
func localPath(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") ||
		strings.ContainsAny(next, "\\") {
		return "/"
	}
	clean := url.URL{Path: path.Clean(u.Path), RawQuery: u.RawQuery}
	return clean.String()
}

func (s *Server) getLogin(w http.ResponseWriter, r *http.Request) {
	if _, err := s.identify(r); err == nil {
		http.Redirect(w, r, localPath(r.FormValue("next")), http.StatusSeeOther)
		return
	}
	s.loginPage(w, r, http.StatusOK, "")
}

// login exchanges a token for a session. The token is verified as one that comes with a request to
// the API, wrong ones as slowly.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		s.plainProblem(w, http.StatusBadRequest, "The form could not be read.")
		return
	}
	asked := r.Clone(r.Context())
	asked.Header = http.Header{"Authorization": {"Bearer " + strings.TrimSpace(r.PostForm.Get("token"))}}
	who, err := s.keeper.Who(asked)
	if err == nil && who.Kind == access.Token {
		http.SetCookie(w, cookie(s.sessions.begin(who.ID, s.now())))
		s.log.Info("logged in to the dashboard", "by", who.String(), "from", who.From)
	}
	if err != nil {
		w.Header().Set("Connection", "close")
		s.loginPage(w, r, http.StatusUnauthorized, loginNote(err))
		return
	}
	http.Redirect(w, r, localPath(r.PostForm.Get("next")), http.StatusSeeOther)
}

// logout ends the session of a request.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	if c, err := r.Cookie(cookieName); err == nil {
		s.sessions.end(c.Value)
	}
	http.SetCookie(w, endedCookie())
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}
