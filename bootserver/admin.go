package bootserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/image"
	"ingot/internal/yamlfile"
)

// admin carries out what operators ask through the API.
type admin struct {
	*booter
	server *Server
}

// Network implements api.Backend.
func (a admin) Network() api.Network {
	lend := a.server.lend.Load()
	if lend == nil {
		return api.Network{}
	}
	return networkOf(lend.leases(), lend.four.Observations(), lend.six.Observations())
}

// Version implements api.Backend.
func (a admin) Version() string { return a.server.conf.Version }

// Ready implements api.Backend.
func (a admin) Ready() error {
	if !a.server.ready.Load() {
		return errors.New("the server is starting or ending")
	}
	return nil
}

// Reload implements api.Backend.
func (a admin) Reload(ctx context.Context) (api.Reloaded, error) {
	r, err := a.server.Reload(ctx)
	var faults yamlfile.Faults
	switch {
	case errors.Is(err, ErrNoReload):
		return r, api.Problem{Status: 409, Detail: err.Error(), Next: "write /etc/ingot/ingot.yaml, see: ingot config show; and restart the server"}
	case errors.As(err, &faults):
		return r, api.Problem{Status: 400, Detail: err.Error(), Next: "ingot config check"}
	case err != nil:
		return r, imageProblem(err)
	}
	return r, nil
}

// Machines implements api.Backend.
func (a admin) Machines() []fleet.Machine { return a.state.Machines() }

// Machine implements api.Backend.
func (a admin) Machine(ref string) (fleet.Machine, error) { return pick(a.state.Machines(), ref) }

// Boots implements api.Backend.
func (a admin) Boots(q api.BootsRequest) ([]fleet.Boot, string, error) {
	var id ingot.MachineID
	if q.Machine != "" {
		m, err := a.Machine(q.Machine)
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
	list, err := a.state.BootsBefore(id, before, limit+1)
	if err != nil || len(list) <= limit {
		return list, "", err
	}
	list = list[1:] // it says that there are older ones
	return list, state.PlaceOf(list[0], id == "").String(), nil
}

// named returns the machines that refs name; empty ones name none.
func (a admin) named(refs []string) (list []fleet.Machine, err error) {
	refs = slices.DeleteFunc(refs, func(ref string) bool { return ref == "" })
	if len(refs) == 0 {
		return nil, nil
	}
	all := a.state.Machines()
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
func (a admin) change(ctx context.Context, action, ref string, f func(m fleet.Machine, all []fleet.Machine) (fleet.Machine, error)) (fleet.Machine, error) {
	var changed fleet.Machine
	err := a.state.Update(func(tx state.Tx) error {
		all := tx.Machines()
		m, err := pick(all, ref)
		if err != nil {
			return err
		}
		if changed, err = f(m, all); err != nil {
			return err
		}
		tx.PutMachine(changed)
		tx.Audit(a.noted(ctx, action, string(m.ID), changed.Hostname(), m, changed))
		return nil
	})
	return changed, err
}

// Approve implements api.Backend.
func (a admin) Approve(ctx context.Context, ref string, q api.ApproveRequest) (fleet.Machine, error) {
	if q.Name != "" && !ingot.ValidProfileName(q.Name) {
		return fleet.Machine{}, badName(q.Name)
	}
	var as fleet.Assignment
	if q.Image != "" {
		var err error
		if as, err = a.assignment(ctx, q.Image, "approved with it"); err != nil {
			return fleet.Machine{}, imageProblem(err)
		}
	}
	return a.change(ctx, "machine.approve", ref, func(m fleet.Machine, all []fleet.Machine) (fleet.Machine, error) {
		if err := freeName(all, m, q.Name); err != nil {
			return m, err
		}
		m = fleet.Answer(m, a.now())
		m.State = fleet.Approved
		if q.Name != "" {
			m.Name = q.Name
		}
		if as.Image != "" {
			if err := a.still(as); err != nil {
				return m, err
			}
			m = fleet.Assign(m, as)
		}
		a.log.Info("approved", "by", access.From(ctx).String(), "machine", m.ID, "name", m.Name, "image", m.Assignment.Name)
		return m, nil
	})
}

// Assign implements api.Backend.
func (a admin) Assign(ctx context.Context, ref, im, why string) (fleet.Machine, error) {
	as, err := a.assignment(ctx, im, why)
	if err != nil {
		return fleet.Machine{}, imageProblem(err)
	}
	return a.change(ctx, "machine.assign", ref, func(m fleet.Machine, _ []fleet.Machine) (fleet.Machine, error) {
		if err := a.still(as); err != nil {
			return m, err
		}
		a.log.Info("assigned", "by", access.From(ctx).String(), "machine", m.ID, "image", as.Name, "before", m.Assignment.Name, "why", why)
		return fleet.Assign(m, as), nil
	})
}

// still reports an image that left the store since it was looked up. To be
// asked inside of a change of the state, where no image leaves: see Storeroom.
func (a admin) still(as fleet.Assignment) error {
	if a.have(as.Image) {
		return nil
	}
	return api.Problem{Status: 409, Detail: fmt.Sprintf("image %s was just removed", as.Name), Next: "ingot image ls"}
}

// Rollback implements api.Backend.
func (a admin) Rollback(ctx context.Context, ref string) (fleet.Machine, error) {
	return a.change(ctx, "machine.rollback", ref, func(m fleet.Machine, _ []fleet.Machine) (fleet.Machine, error) {
		// An image that left the store meanwhile, or whose key is not trusted any
		// more, cannot be gone back to.
		m.Healthy = slices.DeleteFunc(slices.Clone(m.Healthy), func(r fleet.ImageRef) bool { return !a.have(r.Image) })
		as, err := fleet.Rollback(m, a.now())
		if err != nil {
			return m, api.Problem{Status: 409, Detail: fmt.Sprintf("%s: %v", m.Hostname(), err), Next: "choose one: ingot image ls, ingot assign " + m.Hostname() + " IMAGE"}
		}
		a.log.Info("rolled back", "by", access.From(ctx).String(), "machine", m.ID, "image", as.Name, "before", m.Assignment.Name)
		return fleet.Assign(m, as), nil
	})
}

// Resume implements api.Backend.
func (a admin) Resume(ctx context.Context, ref string) (fleet.Machine, error) {
	return a.change(ctx, "machine.resume", ref, func(m fleet.Machine, _ []fleet.Machine) (fleet.Machine, error) {
		a.log.Info("resumed", "by", access.From(ctx).String(), "machine", m.ID, "image", m.Assignment.Name)
		return fleet.Resume(m), nil
	})
}

// Grant implements api.Backend.
func (a admin) Grant(ctx context.Context, ref, volume, disk string, ttl time.Duration) (fleet.Machine, error) {
	switch {
	case disk == "":
		return fleet.Machine{}, api.Problem{Status: 400, Detail: "a grant names one disk", Next: "give its serial number or WWN with --disk"}
	case ttl <= 0 || ttl > 7*24*time.Hour:
		return fleet.Machine{}, api.Problem{Status: 400, Detail: fmt.Sprintf("a grant cannot last %s", ttl), Next: "give --for between 1m and 168h"}
	}
	return a.change(ctx, "machine.grant", ref, func(m fleet.Machine, _ []fleet.Machine) (fleet.Machine, error) {
		now := a.now()
		g := fleet.Grant{Grant: ingot.Grant{Volume: volume, Disk: disk, Expires: now.Add(ttl)}, Given: now}
		a.log.Info("granted", "by", access.From(ctx).String(), "machine", m.ID, "volume", volume, "disk", disk, "until", g.Expires)
		return fleet.Give(m, g, now), nil
	})
}

func imageProblem(err error) error {
	status := 400
	if errors.Is(err, image.ErrNotFound) {
		status = 404
	}
	return api.Problem{Status: status, Detail: err.Error(), Next: "ingot image ls"}
}
