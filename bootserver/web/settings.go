package web

import (
	"net/http"
	"slices"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/web/format"
)

// settingsData is what the page Settings shows.
type settingsData struct {
	*query
	Authority api.Authority
	Version   string
	Zone      string
	Ready     string // why machines are not served; empty: they are
	Tokens    []tokenRow
	Keys      []api.SigningKey
	Webhooks  []api.Webhook
	Sessions  []api.Session
	Audit     []api.AuditEntry
	Made      *api.NewCredential // that was just made
	Machines  counts
}

// tokenRow is a token or client certificate.
type tokenRow struct {
	access.Credential
	Live bool
	Own  bool // the page was asked for with it
}

const auditEntries = 50

func (s *Server) settings(q *query) (page, error) {
	d, err := s.settingsData(q)
	p := page{title: "Settings", nav: "settings", body: "settings", data: d, command: format.Command("token", "ls")}
	if !q.Can("GET /v1/tokens") {
		p.command = format.Command("version")
	}
	return p, err
}

func (s *Server) settingsData(q *query) (d settingsData, err error) {
	zone, _ := q.now.Local().Zone()
	d = settingsData{query: q, Authority: s.backend.Authority(), Version: s.backend.Version(), Zone: zone,
		Machines: countsOf(s.machines(q))}
	if err := s.backend.Ready(); err != nil {
		d.Ready = err.Error()
	}
	if q.Can("GET /v1/tokens") {
		for _, c := range s.backend.Credentials() {
			d.Tokens = append(d.Tokens, tokenRow{c, c.Live(q.now), c.ID == q.who.ID})
		}
		slices.SortStableFunc(d.Tokens, func(a, b tokenRow) int {
			if a.Live != b.Live {
				return map[bool]int{true: -1, false: 1}[a.Live]
			}
			return b.Created.Compare(a.Created)
		})
	}
	if q.Can("GET /v1/sessions") {
		d.Sessions = s.backend.Sessions()
	}
	if q.Can("GET /v1/keys") {
		if d.Keys, err = s.backend.SigningKeys(q.ctx); err != nil {
			return d, err
		}
	}
	if q.Can("GET /v1/webhooks") {
		d.Webhooks = s.backend.Webhooks()
		for i, w := range d.Webhooks {
			if w.Dead == 0 {
				continue
			}
			if w, err := s.backend.Webhook(w.ID); err == nil { // else it was removed meanwhile
				d.Webhooks[i] = w
			}
		}
	}
	if q.Can("GET /v1/audit") {
		if d.Audit, err = s.backend.Audit(0, true, auditEntries); err != nil {
			return d, err
		}
		slices.Reverse(d.Audit)
	}
	return d, nil
}

// createToken makes a token and shows it, this once. It is no redirect: nothing else ever has it.
func (s *Server) createToken(w http.ResponseWriter, r *http.Request) {
	q := s.queryOf(r)
	if err := r.ParseForm(); err != nil {
		s.problem(w, r, api.NewProblem(api.CodeInvalidRequest, err.Error()))
		return
	}
	life, err := time.ParseDuration(r.PostForm.Get("for"))
	if err != nil {
		s.problem(w, r, api.NewProblem(api.CodeInvalidRequest, "for: "+err.Error()))
		return
	}
	made, err := s.backend.CreateCredential(r.Context(), api.CredentialRequest{Name: r.PostForm.Get("name"),
		Scope: access.Scope(r.PostForm.Get("scope")), For: life})
	if err != nil {
		s.problem(w, r, err)
		return
	}
	d, err := s.settingsData(q)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	d.Made = &made
	r.Header.Del("Accept-Encoding") // a secret is not compressed beside what others chose
	s.writePage(w, r, http.StatusOK, q, page{title: "Settings", nav: "settings", body: "settings", data: d,
		command: format.Command("token", "ls")}, "")
}
