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
	// FirstImage returns the name of the image that an approved machine without one is given as soon as it
	// can be served; empty if there is none.
	FirstImage(m fleet.Machine) string
	// HealingPolicy returns how machines recover from images that fail.
	HealingPolicy() fleet.Policy
	// Sending returns the parts of an image that are being sent to a boot, with the bytes so far.
	Sending(boot ingot.BootID) map[string]int64
	// Required returns why the configuration does not let an image be served; nil if it does.
	Required(m ingot.ImageManifest) error
	// KeepLeases stores all leases once more: a restored state may not have them.
	KeepLeases() error
	// SetRules sets the rules for new machines that apply after those of the configuration.
	SetRules(rules []fleet.Rule)
	// ChangeIdentity makes the server go on with the identity of a restored state.
	ChangeIdentity() error
}

// ErrNoReload is returned by a Host that has no configuration file.
var ErrNoReload = errors.New("the server has no configuration file to read again")

// Config is what an Operator works with. All but Started, Log and Rollouts are required.
type Config struct {
	Host    Host
	State   state.Store
	Catalog *catalog.Catalog
	Editor  Editor
	Now     func() time.Time
	// Started is when the server started: it heard of no machine before. Zero: it has always heard them.
	Started time.Time
	Log     *slog.Logger // nil is quiet
	// Rollouts moves rollouts on; nil: one of its own, which nobody runs.
	Rollouts *Rollouts
	Webhooks api.Webhooks
}

// Operator carries out what operators ask through the API. It implements api.Backend.
type Operator struct {
	Editor
	receivers
	host     Host
	state    state.Store
	catalog  *catalog.Catalog
	now      func() time.Time
	log      *slog.Logger
	started  time.Time    // see Config
	captures atomic.Int32 // under way
	rollouts *Rollouts
}

// receivers is api.Webhooks under a name that is not that of one of its methods.
type receivers interface{ api.Webhooks }

// New returns an Operator.
func New(c Config) *Operator {
	o := &Operator{Editor: c.Editor, receivers: c.Webhooks, host: c.Host, state: c.State, catalog: c.Catalog, now: c.Now,
		log: c.Log, started: c.Started, rollouts: c.Rollouts}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	if o.rollouts == nil {
		o.rollouts = NewRollouts(RolloutsConfig{State: c.State, Catalog: c.Catalog, Healing: c.Host.HealingPolicy,
			Now: c.Now, Log: o.log})
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
		return r, api.NewProblem(api.CodeNoConfig, err.Error())
	}
	var p api.Problem
	if err = storeProblem(err); errors.As(err, &p) { // of the image that new machines get
		return r, err
	}
	return r, api.NewProblem(api.CodeInvalidConfig, err.Error())
}

// Machines implements api.Backend.
func (o *Operator) Machines() []api.Machine { return o.shown(o.state.Machines()) }

// Machine implements api.Backend.
func (o *Operator) Machine(ref string) (api.Machine, error) {
	m, err := o.find(ref)
	if err != nil {
		return api.Machine{}, err
	}
	return o.shown([]fleet.Machine{m})[0], nil
}

// shown converts machines, with what their latest boots are.
func (o *Operator) shown(machines []fleet.Machine) []api.Machine {
	list, now := each(machines, machineOf), o.now()
	o.state.View(func(r state.Reader) {
		for i, m := range machines {
			if b, has := r.Boot(m.Boot); has {
				list[i].Latest = latestOf(m, b, o.started, now)
				if !m.IsOff(b) { // the note is void since the machine booted
					list[i].Off = nil
				}
			}
		}
	})
	return list
}

// find returns the one machine that ref names.
func (o *Operator) find(ref string) (fleet.Machine, error) {
	if m, ok := o.indexed(ref); ok {
		return m, nil
	}
	return pick(o.state.Machines(), ref)
}

// findNamed returns the one machine that ref names in full, see pickNamed.
func (o *Operator) findNamed(ref string) (fleet.Machine, error) {
	if m, ok := o.indexed(ref); ok {
		return m, nil
	}
	return pickNamed(o.state.Machines(), ref)
}

// indexed returns the machine that has an ID or a name, without reading all others: an ID means no other
// machine, and a valid name is no other machine's ID, MAC address or UUID, see fleet.Named.
func (o *Operator) indexed(ref string) (m fleet.Machine, ok bool) {
	valid := fleet.CheckName(ref) == nil
	o.state.View(func(r state.Reader) {
		if m, ok = r.Machine(ingot.MachineID(ref)); ok || !valid {
			return
		}
		if named := r.MachinesNamed(ref); len(named) == 1 {
			m, ok = named[0], true
		}
	})
	return m, ok
}

// Boots implements api.Backend.
func (o *Operator) Boots(q api.BootsRequest) ([]api.Boot, string, error) {
	var id ingot.MachineID
	if q.Machine != "" {
		m, err := o.find(q.Machine)
		if err != nil {
			return nil, "", err
		}
		id = m.ID
	}
	before, err := state.ParsePlace(q.Before)
	if err != nil {
		return nil, "", api.NewProblem(api.CodeInvalidPage, fmt.Sprintf("before: %v", err))
	}
	limit := cmp.Or(q.Limit, 1000)
	list, err := o.state.BootsBefore(id, before, limit+1)
	if err != nil || len(list) <= limit {
		return each(list, bootOf), "", err
	}
	list = list[1:] // it says that there are older ones
	return each(list, bootOf), state.PlaceOf(list[0], id == "").String(), nil
}

// named returns the machines that refs name; empty ones name none.
func (o *Operator) named(refs []string) (list []fleet.Machine, err error) {
	refs = slices.DeleteFunc(refs, func(ref string) bool { return ref == "" })
	if len(refs) == 0 {
		return nil, nil
	}
	var all []fleet.Machine
	names := map[string]fleet.Machine{} // most are whole names
	for _, ref := range refs {
		m, known := o.indexed(ref)
		if !known && all == nil {
			all = o.state.Machines()
			for _, m := range all {
				names[m.Hostname()] = m
			}
		}
		if !known {
			m, known = names[ref]
		}
		if !known {
			if m, err = pick(all, ref); err != nil {
				return nil, err
			}
		}
		list = append(list, m)
	}
	return list, nil
}

// assign looks up an image and changes the machine that ref names: decide gets the assignment of it.
// It is looked up again if an image was removed meanwhile: it may have been this one.
func (o *Operator) assign(ctx context.Context, code fleet.Code, ref string, q api.AssignRequest,
	decide func(tx state.Tx, d *fleet.Decision, as fleet.Assignment) error) (m api.Machine, err error) {
	err = repeat(func() error {
		removed := o.state.Removed()
		as, err := o.catalog.Assignment(ctx, q.Image, q.Why, o.now())
		if err != nil {
			return storeProblem(err)
		}
		picked, err := o.findNamed(ref)
		if err != nil {
			return err
		}
		owned := o.ownership(picked, as.Image, q.Force)
		m, err = o.change(ctx, code, ref, func(tx state.Tx, d *fleet.Decision) error {
			tx.LookedUp(removed)
			if err := owned.check(d.Machine, latestBoot(tx, d.Machine)); err != nil {
				return err
			}
			return decide(tx, d, as)
		})
		return err
	}, errNotLookedUp, state.ErrRemoved)
	return m, err
}

// Approve implements api.Backend.
func (o *Operator) Approve(ctx context.Context, ref string, q api.ApproveRequest) (api.Machine, error) {
	approve := func(tx state.Tx, d *fleet.Decision) error {
		if err := freeName(tx, d.Machine, q.Name); err != nil {
			return err
		}
		d.Approve()
		if q.Name != "" {
			d.Rename(q.Name)
		}
		return nil
	}
	if q.Image == "" {
		return o.change(ctx, fleet.ActionApprove, ref, approve)
	}
	return o.assign(ctx, fleet.ActionApprove, ref,
		api.AssignRequest{Image: q.Image, Why: "approved with it", Force: q.Force},
		func(tx state.Tx, d *fleet.Decision, as fleet.Assignment) error {
			if err := approve(tx, d); err != nil {
				return err
			}
			d.Assign(as)
			return nil
		})
}

// Assign implements api.Backend.
func (o *Operator) Assign(ctx context.Context, ref string, q api.AssignRequest) (api.Machine, error) {
	return o.assign(ctx, fleet.ActionAssign, ref, q,
		func(_ state.Tx, d *fleet.Decision, as fleet.Assignment) error {
			d.Assign(as)
			return nil
		})
}

// Rollback implements api.Backend.
func (o *Operator) Rollback(ctx context.Context, ref string, force bool) (m api.Machine, err error) {
	err = repeat(func() error {
		picked, err := o.findNamed(ref)
		if err != nil {
			return err
		}
		removed := o.state.Removed()
		servable := map[ingot.Digest]bool{}
		for _, r := range picked.Healthy {
			servable[r.Image] = o.catalog.Servable(r.Image)
		}
		now := o.now()
		to, err := rollbackOf(picked, servable, now)
		if err != nil {
			return err
		}
		owned := o.ownership(picked, to.Image, force)
		m, err = o.change(ctx, fleet.ActionRollback, ref, func(tx state.Tx, d *fleet.Decision) error {
			tx.LookedUp(removed)
			before, latest := d.Machine, latestBoot(tx, d.Machine)
			if err := rollBack(d, servable, now); err != nil {
				return err
			}
			if d.Machine.Assignment.Image != to.Image {
				return errNotLookedUp
			}
			return owned.check(before, latest)
		})
		return err
	}, errNotLookedUp, state.ErrRemoved)
	return m, err
}

// rollbackOf returns the assignment of the last other image that was healthy on a machine. An image
// that left the store meanwhile, or whose key is not trusted any more, cannot be gone back to.
func rollbackOf(m fleet.Machine, servable map[ingot.Digest]bool, now time.Time) (fleet.Assignment, error) {
	var healthy []fleet.ImageRef
	for _, r := range m.Healthy {
		can, gathered := servable[r.Image]
		if !gathered {
			return fleet.Assignment{}, errNotLookedUp
		}
		if can {
			healthy = append(healthy, r)
		}
	}
	m.Healthy = healthy
	as, err := fleet.Rollback(m, now)
	if err != nil {
		return as, api.NewProblem(api.CodeNoRollback, fmt.Sprintf("%s: %v", m.Hostname(), err), "machine", m.Hostname())
	}
	return as, nil
}

// rollBack assigns what rollbackOf returns, and forgets the images that cannot be served.
func rollBack(d *fleet.Decision, servable map[ingot.Digest]bool, now time.Time) error {
	as, err := rollbackOf(d.Machine, servable, now)
	if err != nil {
		return err
	}
	d.Machine.Healthy = slices.DeleteFunc(slices.Clone(d.Machine.Healthy),
		func(r fleet.ImageRef) bool { return !servable[r.Image] })
	d.Assign(as)
	return nil
}

// Resume implements api.Backend.
func (o *Operator) Resume(ctx context.Context, ref string) (api.Machine, error) {
	return o.change(ctx, fleet.ActionResume, ref, func(_ state.Tx, d *fleet.Decision) error {
		d.Resume()
		return nil
	})
}
