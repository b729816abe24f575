// Package api is the API of a running server for operators: REST with JSON, the OpenAPI document that
// describes it, and its client. Locally it is served on a Unix socket, whose user the kernel names;
// from elsewhere over TLS, to clients with a token or a client certificate. Errors are problem
// details (RFC 9457) with a code; clients choose their advice by it.
//
// Each route has a scope and is in one table (table), which tests walk. What the server does is
// behind the interface Backend.
package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"ingot/bootserver/access"
)

// Backend is what the server can do for operators. The operator of a request is in its context:
// access.From.
type Backend interface {
	Version() string
	Ready() error // nil: machines are served
	Metrics() http.Handler
	Network() Network
	Machines() []Machine
	Machine(ref string) (Machine, error)
	// Boots returns one page of boots, oldest first, and what the page before it
	// is asked for by; nothing when there is none.
	Boots(q BootsRequest) (page []Boot, before string, err error)
	Machinery
	Images
	Approve(ctx context.Context, ref string, q ApproveRequest) (Machine, error)
	Assign(ctx context.Context, ref string, q AssignRequest) (Machine, error)
	Once(ctx context.Context, ref string, q OnceRequest) (Machine, error)
	CancelOnce(ctx context.Context, ref string) (Machine, error)
	Rollback(ctx context.Context, ref string, force bool) (Machine, error)
	Resume(ctx context.Context, ref string) (Machine, error)
	Pin(ctx context.Context, ref string, q WhyRequest) (Machine, error)
	Unpin(ctx context.Context, ref string) (Machine, error)
	SwitchOff(ctx context.Context, ref string, q WhyRequest) (Machine, error)
	SwitchOn(ctx context.Context, ref string) (Machine, error)
	Grant(ctx context.Context, ref string, g GrantRequest) (Machine, error)
	// WithdrawGrant takes the unused grant for a volume back.
	WithdrawGrant(ctx context.Context, ref, volume string) (Machine, error)
	Reload(ctx context.Context) (Reloaded, error)
	// Capture writes a pcap file of machines' traffic until ctx ends or most
	// bytes are written.
	Capture(ctx context.Context, refs []string, w io.Writer, most int64) error
	Ledger
	Rollouts
	Webhooks
	Desired

	Authority() Authority
	Credentials() []access.Credential
	CreateCredential(ctx context.Context, q CredentialRequest) (NewCredential, error)
	RevokeCredential(ctx context.Context, ref string) (access.Credential, error)
	Sessions() []Session
	// EndSessions ends the session with an id, or all of a token or an account, and returns those.
	EndSessions(ctx context.Context, ref string) ([]Session, error)
	Audit(after uint64, last bool, limit int) ([]AuditEntry, error)
}

// Reloaded says what reading the configuration again changed.
type Reloaded struct {
	Changed []string `json:"changed,omitempty"` // sections that are in force now
	Restart []string `json:"restart,omitempty"` // what differs and takes a restart of the server
}

// Version is what a server says of itself.
type Version struct {
	Version string `json:"version"`
}

// ApproveRequest says how a machine is approved; all fields may be empty.
type ApproveRequest struct {
	Name  string `json:"name,omitempty"`
	Image string `json:"image,omitempty"`
	Force bool   `json:"force,omitempty" doc:"As in AssignRequest."`
}

// BootsRequest chooses a page of boots.
type BootsRequest struct {
	Machine string // empty: of all
	Before  string // what a page was answered with; empty: the newest ones
	Limit   int    // 0: 1000
}

// AssignRequest names an image for a machine.
type AssignRequest struct {
	Image string `json:"image"`
	Why   string `json:"why,omitempty"`
	Force bool   `json:"force,omitempty" doc:"Although accounts have other numbers than in the image that runs."`
}

// OnceRequest says what exactly one boot of a machine does other than its assignment says.
type OnceRequest struct {
	Image     string        `json:"image,omitempty"` // empty: the one that it boots anyway
	Arguments []string      `json:"arguments,omitempty" doc:"Kernel arguments beyond those of the image."`
	Shell     bool          `json:"shell,omitempty" doc:"Start a shell in the initramfs."`
	Limit     time.Duration `json:"limit,omitempty" doc:"Nanoseconds to become healthy. 0: 1 h to look into it."`
	Why       string        `json:"why,omitempty"`
	Force     bool          `json:"force,omitempty" doc:"As in AssignRequest."`
}

// GrantRequest names the disk that one boot may initialise.
type GrantRequest struct {
	Volume string        `json:"volume"`
	Disk   string        `json:"disk"` // serial number, WWN or path
	For    time.Duration `json:"for"`  // nanoseconds
	// take over the volume that the disk holds, and initialise nothing
	Adopt bool `json:"adopt,omitempty"`
	// also if the machine's image does not declare the volume, or the machine did not report the disk
	Force bool `json:"force,omitempty"`
}

// Authority is the server's CA, which clients pin.
type Authority struct {
	Certificate string   `json:"certificate"` // PEM
	Fingerprint string   `json:"fingerprint"` // "sha256:…"
	Listens     []string `json:"listens"`     // where the API is served over TLS: "10.0.0.1:7443"
}

// CredentialRequest asks for a token or, with a certificate request, for a
// client certificate.
type CredentialRequest struct {
	Name    string        `json:"name"`
	Scope   access.Scope  `json:"scope" enum:"read,operate,admin"`
	For     time.Duration `json:"for"`               // nanoseconds
	Request string        `json:"request,omitempty"` // PKCS #10 in PEM
}

// NewCredential is a credential that was just made: the only time that its
// token is seen.
type NewCredential struct {
	access.Credential
	Token       string `json:"token,omitempty"`
	Certificate string `json:"certificate,omitempty"` // PEM
}

// MachineIn names one machine in the path of a route (huma wants it exported).
type MachineIn struct {
	Ref string `path:"ref" maxLength:"200" doc:"Id, name, MAC address, UUID, or a unique beginning of one."`
}

type changeIn[Q any] struct {
	MachineIn
	Body Q
}

type nothingIn struct{}

// PageIn chooses a page of a list.
type PageIn struct {
	After string `query:"after" maxLength:"200" doc:"Id of the last one of the page before."`
	Limit int    `query:"limit" minimum:"1" maximum:"10000" default:"1000" doc:"Most of one page."`
}

// page cuts one page out of a list, and says the query of the next one.
func page[T any](list []T, in PageIn, id func(T) string) ([]T, string, error) {
	if in.After != "" {
		at := 0
		for at < len(list) && id(list[at]) != in.After {
			at++
		}
		if at == len(list) {
			return nil, "", NewProblem(CodePageGone, "the last item of the page before is not in the list any more")
		}
		list = list[at+1:]
	}
	if len(list) <= in.Limit {
		return append([]T{}, list...), "", nil
	}
	list = list[:in.Limit]
	next := url.Values{"after": {id(list[len(list)-1])}, "limit": {strconv.Itoa(in.Limit)}}
	return list, next.Encode(), nil
}

// table is all that can be asked. The backend may be nil where only the
// document is wanted.
func table(b Backend, version string) *routes {
	r := newRoutes(version)
	add(r, "GET /v1/version", access.Read, "The server's version",
		func(context.Context, *nothingIn) (Version, error) { return Version{b.Version()}, nil })
	add(r, "GET /v1/network", access.Read, "What was heard and lent on the networks",
		func(context.Context, *nothingIn) (Network, error) { return b.Network(), nil })
	add(r, "POST /v1/reload", access.Admin, "Read the configuration again",
		func(ctx context.Context, _ *nothingIn) (Reloaded, error) { return b.Reload(ctx) })
	machineRoutes(r, b)
	machineryRoutes(r, b)
	imageRoutes(r, b)
	ledgerRoutes(r, b)
	rolloutRoutes(r, b)
	webhookRoutes(r, b)
	markRoutes(r, b)
	desiredRoutes(r, b)
	accessRoutes(r, b)
	plainRoutes(r, b)
	for _, unused := range []string{"V2ErrorModel", "V2ErrorDetail"} { // huma's own words for errors
		delete(r.huma.OpenAPI().Components.Schemas.Map(), unused)
	}
	return r
}

// onceRoutes are those about one boot of a machine.
func onceRoutes(r *routes, b Backend) {
	add(r, "POST /v1/machines/{ref}/once", access.Operate, "Decide what exactly one boot of a machine does",
		func(ctx context.Context, in *changeIn[OnceRequest]) (Machine, error) {
			return b.Once(ctx, in.Ref, in.Body)
		})
	add(r, "DELETE /v1/machines/{ref}/once", access.Operate, "Cancel what one boot of a machine was to do",
		func(ctx context.Context, in *MachineIn) (Machine, error) { return b.CancelOnce(ctx, in.Ref) })
	type grantIn struct {
		MachineIn
		Volume string `path:"volume" maxLength:"200" doc:"Name of the volume."`
	}
	add(r, "DELETE /v1/machines/{ref}/grants/{volume}", access.Operate, "Take back a grant that no boot used",
		func(ctx context.Context, in *grantIn) (Machine, error) {
			return b.WithdrawGrant(ctx, in.Ref, in.Volume)
		})
	add(r, "POST /v1/machines/{ref}/grants", access.Operate, "Let one boot initialise one blank disk",
		func(ctx context.Context, in *changeIn[GrantRequest]) (Machine, error) {
			return b.Grant(ctx, in.Ref, in.Body)
		})
}

func machineRoutes(r *routes, b Backend) {
	type machinesIn struct {
		PageIn
		Brief bool `query:"brief" doc:"Only what a table shows of each."`
	}
	addPage(r, "GET /v1/machines", access.Read, "All machines, the longest known first",
		func(_ context.Context, in *machinesIn) ([]Machine, string, error) {
			list, next, err := page(b.Machines(), in.PageIn, func(m Machine) string { return string(m.ID) })
			if in.Brief && err == nil {
				for i := range list {
					list[i] = list[i].Brief()
				}
				if next != "" {
					next += "&brief=true"
				}
			}
			return list, next, err
		})
	add(r, "GET /v1/machines/{ref}", access.Read, "One machine",
		func(_ context.Context, in *MachineIn) (Machine, error) { return b.Machine(in.Ref) })
	add(r, "POST /v1/machines/{ref}/approve", access.Operate, "Let a machine boot",
		func(ctx context.Context, in *changeIn[ApproveRequest]) (Machine, error) {
			return b.Approve(ctx, in.Ref, in.Body)
		})
	add(r, "POST /v1/machines/{ref}/assign", access.Operate, "Choose the image of a machine's next boot",
		func(ctx context.Context, in *changeIn[AssignRequest]) (Machine, error) {
			return b.Assign(ctx, in.Ref, in.Body)
		})
	onceRoutes(r, b)
	type rollbackIn struct { // no body: clients of before send none
		MachineIn
		Force bool `query:"force" doc:"As in AssignRequest."`
	}
	add(r, "POST /v1/machines/{ref}/rollback", access.Operate, "Assign the last other image that was healthy",
		func(ctx context.Context, in *rollbackIn) (Machine, error) {
			return b.Rollback(ctx, in.Ref, in.Force)
		})
	add(r, "POST /v1/machines/{ref}/resume", access.Operate,
		"Try the assigned image again on a machine that gave it up",
		func(ctx context.Context, in *MachineIn) (Machine, error) {
			return b.Resume(ctx, in.Ref)
		})
	type bootsIn struct {
		Machine string `query:"machine" maxLength:"200" doc:"Of one machine; else of all."`
		Before  string `query:"before" maxLength:"48" doc:"Only boots before those of another page, from its Link."`
		Limit   int    `query:"limit" minimum:"0" maximum:"10000" default:"1000" doc:"The latest so many."`
		Latest  bool   `query:"latest" doc:"The latest of each machine instead, all of them."`
	}
	addPage(r, "GET /v1/boots", access.Read, "The latest boots, oldest first; the next page has older ones",
		func(_ context.Context, in *bootsIn) ([]Boot, string, error) {
			if in.Latest {
				return append([]Boot{}, b.LatestBoots()...), "", nil
			}
			list, before, err := b.Boots(BootsRequest{Machine: in.Machine, Before: in.Before, Limit: in.Limit})
			list = append([]Boot{}, list...)
			if err != nil || before == "" {
				return list, "", err
			}
			next := url.Values{"before": {before}, "limit": {strconv.Itoa(in.Limit)}}
			if in.Machine != "" {
				next.Set("machine", in.Machine)
			}
			return list, next.Encode(), nil
		})
}

func accessRoutes(r *routes, b Backend) {
	add(r, "GET /v1/authority", access.Read, "The server's CA, to be pinned",
		func(context.Context, *nothingIn) (Authority, error) { return b.Authority(), nil })
	add(r, "GET /v1/tokens", access.Admin, "All tokens and client certificates, without their secrets",
		func(context.Context, *nothingIn) ([]access.Credential, error) {
			return b.Credentials(), nil
		})
	type createIn struct{ Body CredentialRequest }
	add(r, "POST /v1/tokens", access.Admin, "Make a token or a client certificate; it is shown this once",
		func(ctx context.Context, in *createIn) (NewCredential, error) {
			return b.CreateCredential(ctx, in.Body)
		})
	type tokenIn struct {
		Ref string `path:"ref" maxLength:"200" doc:"Id or name."`
	}
	add(r, "POST /v1/tokens/{ref}/revoke", access.Admin, "Take a token or client certificate back",
		func(ctx context.Context, in *tokenIn) (access.Credential, error) {
			return b.RevokeCredential(ctx, in.Ref)
		})
	add(r, "GET /v1/sessions", access.Admin, "Browsers that are logged in to the dashboard, used last first",
		func(context.Context, *nothingIn) ([]Session, error) { return b.Sessions(), nil })
	type sessionIn struct {
		Ref string `path:"ref" maxLength:"400" doc:"Id of a session; or name or id of a token, or name of an account."`
	}
	add(r, "DELETE /v1/sessions/{ref}", access.Admin, "End a session, or all of a token or an account",
		func(ctx context.Context, in *sessionIn) ([]Session, error) { return b.EndSessions(ctx, in.Ref) })
	type auditIn struct {
		After uint64 `query:"after" doc:"Only what came after this sequence number."`
		Last  bool   `query:"last" doc:"The latest ones instead of the first."`
		Limit int    `query:"limit" minimum:"1" maximum:"10000" default:"1000"`
	}
	addPage(r, "GET /v1/audit", access.Admin, "Who changed what, oldest first",
		func(_ context.Context, in *auditIn) ([]AuditEntry, string, error) {
			list, err := b.Audit(in.After, in.Last, in.Limit)
			if err != nil || in.Last || len(list) < in.Limit {
				return list, "", err
			}
			next := url.Values{"after": {strconv.FormatUint(list[len(list)-1].Seq, 10)}, "limit": {strconv.Itoa(in.Limit)}}
			return list, next.Encode(), nil
		})
}

// plainRoutes are those that are not JSON, or for programs that have no token.
func plainRoutes(r *routes, b Backend) {
	r.addPlain("GET /v1/openapi.json", access.Read, "This description (OpenAPI 3.1)",
		func(w http.ResponseWriter, _ *http.Request) {
			text, err := OpenAPI(b.Version())
			if err != nil {
				write(w, problem(err))
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(text) // a client that hung up wants no answer
		})
	r.addPlain("GET /v1/machines/{ref}/capture", access.Admin,
		"A machine's boot traffic as it comes, as a pcap file; ?for=10m, ?most=BYTES",
		func(w http.ResponseWriter, q *http.Request) {
			capture(b, w, q, []string{q.PathValue("ref")})
		})
	r.addPlain("GET /v1/capture", access.Admin,
		"Boot traffic of several machines in one file: ?machine=A&machine=B, and as of one",
		func(w http.ResponseWriter, q *http.Request) {
			capture(b, w, q, q.URL.Query()["machine"])
		})
	r.addPlain("GET /metrics", access.Read, "Metrics, as Prometheus reads them",
		func(w http.ResponseWriter, q *http.Request) { b.Metrics().ServeHTTP(w, q) })
	r.addPlain("GET /healthz", "", "200: the server answers", health(func() error { return nil }))
	r.addPlain("GET /readyz", "", "200: machines are served; else 503", health(func() error { return b.Ready() }))
}

// Bounds of one capture.
const (
	maxCaptureTime  = time.Hour
	maxCaptureBytes = 1 << 30
)

// capture answers frames as they come. An error after the first of them ends
// the connection: half a file must not look like one.
func capture(b Backend, w http.ResponseWriter, q *http.Request, refs []string) {
	d, err := time.ParseDuration(q.FormValue("for"))
	most, bad := strconv.ParseInt(q.FormValue("most"), 10, 64)
	if err != nil || bad != nil || d <= 0 || d > maxCaptureTime || most < 1<<10 || most > maxCaptureBytes {
		detail := fmt.Sprintf("for=%q, most=%q: want a time up to %s, and 1024 to %d bytes",
			q.FormValue("for"), q.FormValue("most"), maxCaptureTime, maxCaptureBytes)
		write(w, NewProblem(CodeInvalidCapture, detail, "example", "/v1/machines/NAME/capture?for=10m&most=268435456"))
		return
	}
	if len(refs) == 0 || len(refs) > MaxNamed {
		write(w, NewProblem(CodeInvalidCapture, fmt.Sprintf("%d machines are named; want 1 to %d", len(refs), MaxNamed),
			"example", "/v1/capture?machine=NAME&machine=NAME&for=10m&most=268435456"))
		return
	}
	ctx, cancel := context.WithTimeout(q.Context(), d)
	defer cancel()
	out := &flushed{w: w}
	err = b.Capture(ctx, refs, out, most)
	if err != nil && !out.began {
		write(w, problem(err))
	} else if err != nil {
		panic(http.ErrAbortHandler)
	}
}

// flushed sends each write at once.
type flushed struct {
	w     http.ResponseWriter
	began bool
}

func (f *flushed) Write(b []byte) (int, error) {
	if !f.began {
		f.began = true
		f.w.Header().Set("Content-Type", "application/vnd.tcpdump.pcap")
	}
	n, err := f.w.Write(b)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}

// health answers 200 or 503 and one word. It is not authenticated, so it says nothing more.
func health(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if check() != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte("not ready\n"))
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	}
}
