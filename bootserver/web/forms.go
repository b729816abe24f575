package web

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/web/format"
)

// done is what a form did: the page to go on to, and the note that is shown there.
type done struct{ to, note string }

// notes are the sentences about what forms did, by the word in the address. An address cannot bring
// another text.
var notes = map[string]string{
	"approve": "Approved. A machine that waits at its boot screen boots by itself within a few seconds.",
	"assign":  "Assigned. It takes effect at the next boot.", "rollback": "Rolled back. It takes effect at the next boot.",
	"resume": "Resumed: the assigned image is tried again.", "label": "The labels were changed.",
	"reboot":        "Ordered. The machine fetches the order with its next report, within a minute.",
	"reboot-cancel": "The order is withdrawn.",
	"pin":           "Pinned: rollouts leave it out.", "unpin": "Rollouts may move it again.",
	"off": "Noted. It counts as switched off until it boots.", "on": "Noted.",
	"rename": "Renamed.", "retire": "Retired: the machine may not boot any more.", "forget": "Forgotten.",
	"merge": "Merged.", "grants": "Granted: the next boot may initialise that disk.",
	"gc": "Space that no image needs was freed.", "reload": "The configuration was read again.",
	"rollout": "Started. The page follows it.", "plan": "The plan has changed since it was shown. Look at it again: " +
		"nothing was started.",
	"rollout-pause":  "Paused: no further machine is moved.",
	"rollout-resume": "Resumed: what stopped it counts no more.",
	"rollout-abort":  "Aborted: machines that were moved are assigned what they had.",
	"session":        "Ended. Its open pages close within seconds.",
	"letters":        "They are sent again, one after another.",
	"discard":        "The dead letters were discarded.",
	"revoke":         "Revoked. Its sessions and open pages have ended.",
}

// serveForm carries out what a form says, and goes on to a page.
func (s *Server) serveForm(r route, w http.ResponseWriter, q *http.Request) {
	if err := q.ParseForm(); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			err = api.NewProblem(api.CodeTooLarge, "the form is too large")
		} else {
			err = api.NewProblem(api.CodeInvalidRequest, err.Error())
		}
		s.problem(w, q, err)
		return
	}
	in := s.queryOf(q)
	in.Values = q.PostForm
	d, err := r.form(s, in)
	if err != nil {
		s.problem(w, q, err)
		return
	}
	to, err := url.Parse(d.to)
	if err != nil {
		to = &url.URL{Path: "/"}
	}
	v := to.Query()
	v.Set("did", d.note)
	to.RawQuery = v.Encode()
	http.Redirect(w, q, to.String(), http.StatusSeeOther)
}

// machineForms are the forms of a machine, by the last word of their address.
var machineForms = map[string]func(*Server, *query) (done, error){
	"approve": func(s *Server, q *query) (done, error) {
		m, err := s.backend.Approve(q.ctx, q.path("ref"), api.ApproveRequest{Name: q.Get("name"), Image: q.Get("image")})
		return toMachine(m, "approve", err)
	},
	"assign": func(s *Server, q *query) (done, error) {
		m, err := s.backend.Assign(q.ctx, q.path("ref"), api.AssignRequest{Image: q.Get("image"), Why: q.Get("why")})
		return toMachine(m, "assign", err)
	},
	"rollback": func(s *Server, q *query) (done, error) {
		m, err := s.backend.Rollback(q.ctx, q.path("ref"), false)
		return toMachine(m, "rollback", err)
	},
	"resume": func(s *Server, q *query) (done, error) {
		m, err := s.backend.Resume(q.ctx, q.path("ref"))
		return toMachine(m, "resume", err)
	},
	"reboot": func(s *Server, q *query) (done, error) {
		drain := ingot.Drain(q.Get("drain"))
		if !slices.ContainsFunc(drains, func(d drainChoice) bool { return d.Value == drain }) {
			return done{}, api.NewProblem(api.CodeInvalidRequest, fmt.Sprintf("drain: %q is unknown", drain))
		}
		b, err := s.backend.Reboot(q.ctx, q.path("ref"), api.RebootRequest{Drain: drain, Why: q.Get("why")})
		return done{"/machines/" + string(b.Machine), "reboot"}, err
	},
	"pin": func(s *Server, q *query) (done, error) {
		m, err := s.backend.Pin(q.ctx, q.path("ref"), api.WhyRequest{Why: q.Get("why")})
		return toMachine(m, "pin", err)
	},
	"off": func(s *Server, q *query) (done, error) {
		m, err := s.backend.SwitchOff(q.ctx, q.path("ref"), api.WhyRequest{Why: q.Get("why")})
		return toMachine(m, "off", err)
	},
	"label": func(s *Server, q *query) (done, error) {
		change, err := labelChange(q.Get("labels"))
		if err != nil {
			return done{}, err
		}
		m, err := s.backend.Label(q.ctx, q.path("ref"), change)
		return toMachine(m, "label", err)
	},
	"rename": func(s *Server, q *query) (done, error) {
		m, err := s.backend.Rename(q.ctx, q.path("ref"), strings.TrimSpace(q.Get("name")))
		return toMachine(m, "rename", err)
	},
	"retire": func(s *Server, q *query) (done, error) {
		m, err := s.backend.Retire(q.ctx, q.path("ref"))
		return toMachine(m, "retire", err)
	},
	"forget": func(s *Server, q *query) (done, error) {
		_, err := s.backend.Forget(q.ctx, q.path("ref"), q.Get("force") == "true")
		return done{"/", "forget"}, err
	},
	"merge": func(s *Server, q *query) (done, error) {
		m, err := s.backend.Merge(q.ctx, q.path("ref"), q.Get("into"), false)
		return toMachine(m, "merge", err)
	},
	"grants": func(s *Server, q *query) (done, error) {
		m, err := s.backend.Grant(q.ctx, q.path("ref"), api.GrantRequest{Volume: strings.TrimSpace(q.Get("volume")),
			Disk: q.Get("disk"), For: time.Hour})
		return toMachine(m, "grants", err)
	},
}

// cancelReboot withdraws the order to reboot.
func (s *Server) cancelReboot(q *query) (done, error) {
	b, err := s.backend.CancelReboot(q.ctx, q.path("ref"))
	return done{"/machines/" + string(b.Machine), "reboot-cancel"}, err
}

// unpin lets rollouts move a machine again.
func (s *Server) unpin(q *query) (done, error) {
	m, err := s.backend.Unpin(q.ctx, q.path("ref"))
	return toMachine(m, "unpin", err)
}

// switchOn takes back that a machine is switched off.
func (s *Server) switchOn(q *query) (done, error) {
	m, err := s.backend.SwitchOn(q.ctx, q.path("ref"))
	return toMachine(m, "on", err)
}

// toMachine goes on to the page of a machine that a form changed.
func toMachine(m api.Machine, note string, err error) (done, error) {
	return done{"/machines/" + string(m.ID), note}, err
}

// labelChange reads labels as they are typed: rack=r1 sets one, rack- removes it.
func labelChange(text string) (q api.LabelRequest, err error) {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
		key, value, sets := strings.Cut(word, "=")
		name, removes := strings.CutSuffix(word, "-")
		switch {
		case sets:
			if q.Set == nil {
				q.Set = map[string]string{}
			}
			q.Set[key] = value
		case removes && name != "":
			q.Remove = append(q.Remove, name)
		default:
			return q, api.NewProblem(api.CodeInvalidLabel,
				fmt.Sprintf("%q is not a label; write KEY=VALUE to set one, or KEY- to remove it", word))
		}
	}
	return q, nil
}

// approveMany approves the machines that were chosen, and names them by a hostlist. One that cannot be
// approved does not keep the others back.
func (s *Server) approveMany(q *query) (done, error) {
	refs := q.Values["machine"]
	if len(refs) == 0 {
		return done{}, api.NewProblem(api.CodeInvalidRequest, "Choose at least one machine.")
	}
	names, err := namesFor(strings.TrimSpace(q.Get("names")), refs)
	if err != nil {
		return done{}, err
	}
	labels, err := labelChange(q.Get("labels"))
	if err != nil {
		return done{}, err
	}
	for k, v := range labels.Set {
		if err := fleet.CheckLabel(k, v); err != nil {
			return done{}, api.NewProblem(api.CodeInvalidLabel, err.Error())
		}
	}
	var faults []error
	for i, ref := range refs {
		m, err := s.backend.Approve(q.ctx, ref, api.ApproveRequest{Name: names[i], Image: q.Get("image")})
		if err == nil && len(labels.Set) > 0 && q.Can("POST /v1/machines/{ref}/label") {
			_, err = s.backend.Label(q.ctx, string(m.ID), labels)
		}
		if err != nil {
			faults = append(faults, err)
		}
	}
	if len(faults) > 0 && len(refs) > 1 {
		return done{}, api.NewProblem(api.CodeInvalidRequest, fmt.Sprintf("%d of %d were approved. %v",
			len(refs)-len(faults), len(refs), errors.Join(faults...)))
	}
	return done{"/pending", "approve"}, errors.Join(faults...)
}

// namesFor are the names that a hostlist gives to machines, in their order; none for an empty one.
func namesFor(list string, refs []string) ([]string, error) {
	if list == "" {
		return make([]string, len(refs)), nil
	}
	names, err := fleet.Hostlist(list)
	if err != nil {
		return nil, api.NewProblem(api.CodeInvalidName, err.Error())
	}
	if len(names) != len(refs) {
		return nil, api.NewProblem(api.CodeInvalidName, fmt.Sprintf("%s names %s, and %s chosen", list,
			format.Plural(len(names), "machine"), are(len(refs))))
	}
	return slices.Clone(names), nil
}

// are is "1 is", "3 are".
func are(n int) string {
	if n == 1 {
		return "1 is"
	}
	return strconv.Itoa(n) + " are"
}

// collect frees the space of what no image needs, and of old images if their number is given.
func (s *Server) collect(q *query) (done, error) {
	keep, err := strconv.Atoi(q.Get("keep"))
	if err != nil || keep < 0 {
		return done{}, api.NewProblem(api.CodeInvalidRequest, "keep: a number of images of each profile; 0 keeps all")
	}
	_, err = s.backend.CollectImages(q.ctx, api.CollectRequest{Keep: keep})
	return done{"/images", "gc"}, err
}

// reload reads the configuration again.
func (s *Server) reload(q *query) (done, error) {
	_, err := s.backend.Reload(q.ctx)
	return done{"/settings", "reload"}, err
}

// endSession logs a browser out.
func (s *Server) endSession(q *query) (done, error) {
	_, err := s.backend.EndSessions(q.ctx, q.path("ref"))
	return done{"/settings", "session"}, err
}

// redeliver lets the dead letters of a webhook be sent again.
func (s *Server) redeliver(q *query) (done, error) {
	_, err := s.backend.RedeliverWebhook(q.ctx, q.path("ref"), api.RedeliverRequest{})
	return done{"/settings#wh", "letters"}, err
}

// discard removes the dead letters of a webhook.
func (s *Server) discard(q *query) (done, error) {
	_, err := s.backend.DiscardDeadLetters(q.ctx, q.path("ref"))
	return done{"/settings#wh", "discard"}, err
}

// revoke takes a token or certificate back.
func (s *Server) revoke(q *query) (done, error) {
	_, err := s.backend.RevokeCredential(q.ctx, q.path("ref"))
	return done{"/settings", "revoke"}, err
}
