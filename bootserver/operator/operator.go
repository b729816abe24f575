// Package operator carries out what operators ask of a server through its API: it implements
// api.Backend over the state and the catalog of images. It sees the running server through the
// small interface Host, and knows neither its sockets nor what answers machines.
package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/catalog"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// Host is the running server as operators see it. Its own sockets, configuration and metrics are no
// business of this package.
type Host interface {
	// Version returns the version of the program.
	Version() string
	// Ready returns nil while machines are served.
	Ready() error
	// Metrics serves what Prometheus scrapes.
	Metrics() http.Handler
	// Network returns what was heard on the networks that are served, and the leases.
	Network() api.Network
	// HeardOf returns what other DHCP servers were heard to answer cards, by MAC address.
	HeardOf(macs []string) []fleet.Other
	// Interfaces returns the names of the interfaces that are served, sorted.
	Interfaces() []string
	// Reload reads the configuration again; see ErrNoReload.
	Reload(ctx context.Context) (api.Reloaded, error)
	// Authority returns the CA of the API.
	Authority() api.Authority
	// Issue signs the certificate request of a credential.
	Issue(c access.Credential, request []byte) (access.Credential, []byte, error)
	// MachineKey returns the machine-id(5) of a machine's systems.
	MachineKey(id ingot.MachineID) string
	// HealingPolicy returns how machines recover from images that fail.
	HealingPolicy() fleet.Policy
	// KeepLeases stores all leases once more: a restored state may not have them.
	KeepLeases() error
	// ChangeIdentity makes the server go on with the identity of a restored state.
	ChangeIdentity() error
}

// ErrNoReload is returned by a Host that has no configuration file.
var ErrNoReload = errors.New("the server has no configuration file to read again")

// Config is what an Operator works with. All but Log are required.
type Config struct {
	Host    Host
	State   state.Store
	Catalog *catalog.Catalog
	Editor  Editor
	Now     func() time.Time
	Log     *slog.Logger // nil is quiet
}

// Operator carries out what operators ask through the API. It implements api.Backend.
type Operator struct {
	Editor
	host     Host
	state    state.Store
	catalog  *catalog.Catalog
	now      func() time.Time
	log      *slog.Logger
	captures atomic.Int32 // under way
}

// New returns an Operator.
func New(c Config) *Operator {
	o := &Operator{Editor: c.Editor, host: c.Host, state: c.State, catalog: c.Catalog, now: c.Now, log: c.Log}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Network implements api.Backend.
func (o *Operator) Network() api.Network { return o.host.Network() }

// Version implements api.Backend.
func (o *Operator) Version() string { return o.host.Version() }

// Ready implements api.Backend.
func (o *Operator) Ready() error { return o.host.Ready() }

// Metrics implements api.Backend.
func (o *Operator) Metrics() http.Handler { return o.host.Metrics() }

// Reload implements api.Backend.
func (o *Operator) Reload(ctx context.Context) (api.Reloaded, error) {
	r, err := o.host.Reload(ctx)
	if err == nil {
		return r, nil
	}
	if errors.Is(err, ErrNoReload) {
		return r, api.Problem{Status: 409, Detail: err.Error(), Next: "write /etc/ingot/ingot.yaml, see: ingot config show; and restart the server"}
	}
	var p api.Problem
	if err = storeProblem(err); errors.As(err, &p) { // of the image that new machines get
		return r, err
	}
	return r, api.Problem{Status: 400, Detail: err.Error(), Next: "ingot config check"}
}

// Machines implements api.Backend.
func (o *Operator) Machines() []fleet.Machine { return o.state.Machines() }

// Machine implements api.Backend.
func (o *Operator) Machine(ref string) (fleet.Machine, error) { return pick(o.state.Machines(), ref) }

// Boots implements api.Backend.
func (o *Operator) Boots(q api.BootsRequest) ([]fleet.Boot, string, error) {
	var id ingot.MachineID
	if q.Machine != "" {
		m, err := o.Machine(q.Machine)
		if err != nil {
			return nil, "", err
		}
		id = m.ID
	}
	before, err := state.ParsePlace(q.Before)
	if err != nil {
		return nil, "", api.Problem{Status: 400, Detail: fmt.Sprintf("before: %v", err), Next: "give what the Link of a page says"}
	}
	limit := cmp.Or(q.Limit, 1000)
	list, err := o.state.BootsBefore(id, before, limit+1)
	if err != nil || len(list) <= limit {
		return list, "", err
	}
	list = list[1:] // it says that there are older ones
	return list, state.PlaceOf(list[0], id == "").String(), nil
}

// named returns the machines that refs name; empty ones name none.
func (o *Operator) named(refs []string) (list []fleet.Machine, err error) {
	refs = slices.DeleteFunc(refs, func(ref string) bool { return ref == "" })
	if len(refs) == 0 {
		return nil, nil
	}
	all := o.state.Machines()
	names := map[string]fleet.Machine{} // most are whole names
	for _, m := range all {
		names[m.Hostname()] = m
	}
	for _, ref := range refs {
		m, known := names[ref]
		if !known {
			if m, err = pick(all, ref); err != nil {
				return nil, err
			}
		}
		list = append(list, m)
	}
	return list, nil
}

// pick returns the one machine that ref names.
func pick(machines []fleet.Machine, ref string) (fleet.Machine, error) {
	switch found := fleet.Match(machines, ref); len(found) {
	case 1:
		return found[0], nil
	case 0:
		return fleet.Machine{}, api.Problem{Status: 404, Detail: fmt.Sprintf("no machine answers to %q", ref), Next: "ingot machine ls"}
	default:
		return fleet.Machine{}, api.Problem{Status: 409, Detail: fmt.Sprintf("%d machines answer to %q: %s", len(found), ref, several(found)), Next: "give the id of the one that is meant"}
	}
}

// several lists machines by id and name, the first of many.
func several(list []fleet.Machine) string {
	const most = 8
	var words []string
	for _, m := range list[:min(len(list), most)] {
		words = append(words, strings.TrimSpace(string(m.ID)+" "+m.Name))
	}
	if more := len(list) - most; more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, ", ")
}

// change updates one machine, and notes in the audit log who did it.
func (o *Operator) change(ctx context.Context, action, ref string, f func(m fleet.Machine, all []fleet.Machine) (fleet.Machine, error)) (fleet.Machine, error) {
	var changed fleet.Machine
	err := o.state.Update(func(tx state.Tx) error {
		all := tx.Machines()
		m, err := pick(all, ref)
		if err != nil {
			return err
		}
		if changed, err = f(m, all); err != nil {
			return err
		}
		tx.PutMachine(changed)
		tx.Audit(o.noted(ctx, action, string(m.ID), changed.Hostname(), m, changed))
		return nil
	})
	return changed, err
}

// Approve implements api.Backend.
func (o *Operator) Approve(ctx context.Context, ref string, q api.ApproveRequest) (fleet.Machine, error) {
	if q.Name != "" && !ingot.ValidProfileName(q.Name) {
		return fleet.Machine{}, badName(q.Name)
	}
	var as fleet.Assignment
	if q.Image != "" {
		var err error
		if as, err = o.catalog.Assignment(ctx, q.Image, "approved with it", o.now()); err != nil {
			return fleet.Machine{}, storeProblem(err)
		}
	}
	return o.change(ctx, "machine.approve", ref, func(m fleet.Machine, all []fleet.Machine) (fleet.Machine, error) {
		if err := freeName(all, m, q.Name); err != nil {
			return m, err
		}
		m = fleet.Answer(m, o.now())
		m.State = fleet.Approved
		if q.Name != "" {
			m.Name = q.Name
		}
		if as.Image != "" {
			if err := o.still(as); err != nil {
				return m, err
			}
			m = fleet.Assign(m, as)
		}
		o.log.Info("approved", "by", access.From(ctx).String(), "machine", m.ID, "name", m.Name, "image", m.Assignment.Name)
		return m, nil
	})
}

// Assign implements api.Backend.
func (o *Operator) Assign(ctx context.Context, ref, im, why string) (fleet.Machine, error) {
	as, err := o.catalog.Assignment(ctx, im, why, o.now())
	if err != nil {
		return fleet.Machine{}, storeProblem(err)
	}
	return o.change(ctx, "machine.assign", ref, func(m fleet.Machine, _ []fleet.Machine) (fleet.Machine, error) {
		if err := o.still(as); err != nil {
			return m, err
		}
		o.log.Info("assigned", "by", access.From(ctx).String(), "machine", m.ID, "image", as.Name, "before", m.Assignment.Name, "why", why)
		return fleet.Assign(m, as), nil
	})
}

// still reports an image that left the store since it was looked up. To be
// asked inside of a change of the state, where no image leaves: see Editor.
func (o *Operator) still(as fleet.Assignment) error {
	if o.catalog.Servable(as.Image) {
		return nil
	}
	return api.Problem{Status: 409, Detail: fmt.Sprintf("image %s was just removed", as.Name), Next: "ingot image ls"}
}

// Rollback implements api.Backend.
func (o *Operator) Rollback(ctx context.Context, ref string) (fleet.Machine, error) {
	return o.change(ctx, "machine.rollback", ref, func(m fleet.Machine, _ []fleet.Machine) (fleet.Machine, error) {
		// An image that left the store meanwhile, or whose key is not trusted any
		// more, cannot be gone back to.
		m.Healthy = slices.DeleteFunc(slices.Clone(m.Healthy), func(r fleet.ImageRef) bool { return !o.catalog.Servable(r.Image) })
		as, err := fleet.Rollback(m, o.now())
		if err != nil {
			return m, api.Problem{Status: 409, Detail: fmt.Sprintf("%s: %v", m.Hostname(), err), Next: "choose one: ingot image ls, ingot assign " + m.Hostname() + " IMAGE"}
		}
		o.log.Info("rolled back", "by", access.From(ctx).String(), "machine", m.ID, "image", as.Name, "before", m.Assignment.Name)
		return fleet.Assign(m, as), nil
	})
}

// Resume implements api.Backend.
func (o *Operator) Resume(ctx context.Context, ref string) (fleet.Machine, error) {
	return o.change(ctx, "machine.resume", ref, func(m fleet.Machine, _ []fleet.Machine) (fleet.Machine, error) {
		o.log.Info("resumed", "by", access.From(ctx).String(), "machine", m.ID, "image", m.Assignment.Name)
		return fleet.Resume(m), nil
	})
}

// Grant implements api.Backend.
func (o *Operator) Grant(ctx context.Context, ref, volume, disk string, ttl time.Duration) (fleet.Machine, error) {
	switch {
	case disk == "":
		return fleet.Machine{}, api.Problem{Status: 400, Detail: "a grant names one disk", Next: "give its serial number or WWN with --disk"}
	case ttl <= 0 || ttl > 7*24*time.Hour:
		return fleet.Machine{}, api.Problem{Status: 400, Detail: fmt.Sprintf("a grant cannot last %s", ttl), Next: "give --for between 1m and 168h"}
	}
	return o.change(ctx, "machine.grant", ref, func(m fleet.Machine, _ []fleet.Machine) (fleet.Machine, error) {
		now := o.now()
		g := fleet.Grant{Grant: ingot.Grant{Volume: volume, Disk: disk, Expires: now.Add(ttl)}, Given: now}
		o.log.Info("granted", "by", access.From(ctx).String(), "machine", m.ID, "volume", volume, "disk", disk, "until", g.Expires)
		return fleet.Give(m, g, now), nil
	})
}
