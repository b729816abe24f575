package web

import (
	"errors"
	"net/http"

	"ingot/bootserver/access"
	"ingot/bootserver/web/login"
)

// loginData is what the login page shows.
type loginData struct {
	Note     string // what was wrong; empty: nothing
	Next     string // the path to go on to
	Local    bool   // nobody can log in here: the connection is not over TLS
	Provider string // the host of the login provider; empty: there is none
	Logout   string // of a browser that just logged out: where it logs out of the provider, too
}

// loginPage asks for a token.
func (s *Server) loginPage(w http.ResponseWriter, r *http.Request, status int, note string) {
	next := r.FormValue("next")
	switch path := r.URL.Path; {
	case path == login.CallbackPath:
		next = "/"
	case path != "/login" && path != "/login/oidc":
		next = r.URL.RequestURI()
	}
	d := loginData{Note: note, Next: login.LocalPath(next), Local: r.TLS == nil, Provider: s.logins.Provider.Host()}
	if r.URL.Query().Get("did") == leftProvider {
		d.Logout = s.logins.Provider.LogoutAddress()
	}
	s.write(w, r, status, "login", d)
}

func (s *Server) getLogin(w http.ResponseWriter, r *http.Request) {
	if _, err := s.logins.Identify(r); err == nil {
		http.Redirect(w, r, login.LocalPath(r.FormValue("next")), http.StatusSeeOther)
		return
	}
	s.loginPage(w, r, http.StatusOK, "")
}

// login exchanges a token for a session.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		s.plainProblem(w, http.StatusBadRequest, "The form could not be read.")
		return
	}
	cookie, err := s.logins.ByToken(r, r.PostForm.Get("token"))
	if err != nil {
		s.loginFailed(w, r, err)
		return
	}
	if cookie != nil {
		http.SetCookie(w, cookie)
	}
	http.Redirect(w, r, login.LocalPath(r.PostForm.Get("next")), http.StatusSeeOther)
}

// loginFailed answers a login that failed: because of what was shown, or because the server cannot keep
// sessions.
func (s *Server) loginFailed(w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Set("Connection", "close")
	if refused, is := errors.AsType[*login.Refusal](err); is {
		if refused.Err != nil {
			s.log.Warn("a login by the provider failed", "from", r.RemoteAddr, "err", refused.Err)
		}
		s.loginPage(w, r, refused.Status, refused.Note)
		return
	}
	for _, known := range []error{access.ErrNobody, access.ErrWrong, access.ErrExpired, access.ErrRevoked, access.ErrPlain,
		access.ErrTooManyWrong} {
		if errors.Is(err, known) {
			s.loginPage(w, r, http.StatusUnauthorized, login.Note(err))
			return
		}
	}
	s.log.Error("logging in to the dashboard", "from", r.RemoteAddr, "err", err)
	s.loginPage(w, r, http.StatusServiceUnavailable, login.Note(err))
}

// logout ends the session of a request.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	cookie, kind, err := s.logins.Logout(r)
	http.SetCookie(w, cookie)
	if err != nil {
		s.log.Error("logging out of the dashboard", "err", err)
		s.plainProblem(w, http.StatusServiceUnavailable, "The session could not be ended on the server; its log says why.")
		return
	}
	to := "/login"
	if kind == access.OIDC {
		to += "?did=" + leftProvider
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// leftProvider is in the address of the login page after the end of a session of the provider.
const leftProvider = "left"

// startProvider sends a browser to the login provider.
func (s *Server) startProvider(w http.ResponseWriter, r *http.Request) {
	to, cookie, err := s.logins.Provider.Start(r, r.URL.Query().Get("next"))
	if err != nil {
		s.loginFailed(w, r, err)
		return
	}
	if cookie != nil {
		http.SetCookie(w, cookie)
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// finishProvider begins the session of a browser that is back from the login provider.
func (s *Server) finishProvider(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, login.EndedFlow())
	cookie, next, err := s.logins.ByProvider(r)
	if err != nil {
		s.loginFailed(w, r, err)
		return
	}
	http.SetCookie(w, cookie)
	http.Redirect(w, r, next, http.StatusSeeOther)
}
