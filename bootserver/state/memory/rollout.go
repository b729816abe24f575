package memory

import (
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/state/record"
	"ingot/bootserver/state/view"
)

// addRollouts adds the rollouts and the desired state that are stored to a view.
func addRollouts(v *view.View, d *data) error {
	for _, b := range d.Records[view.Rollouts] {
		r, err := record.DecodeRollout(b)
		if err != nil {
			return err
		}
		v.AddRollout(r)
	}
	for _, b := range d.Records[view.Members] {
		m, err := record.DecodeMember(b)
		if err != nil {
			return err
		}
		v.AddMember(m)
	}
	for _, b := range d.Records[view.Desired] {
		r, err := record.DecodeDesired(b)
		if err != nil {
			return err
		}
		v.SetDesired(r)
	}
	return nil
}

// touchRollout touches the entries of indexes that a rollout is in. One that ends, or is new, changes
// those of all its machines.
func (s *Store) touchRollout(r rollout.Rollout) {
	old, err := record.DecodeRollout(s.data.Records[view.Rollouts][r.ID])
	if err == nil && old.State.Ended() == r.State.Ended() {
		return
	}
	s.touch(view.Key{Table: view.Numbers, Key: view.RolloutsKey})
	s.touch(view.Key{Table: view.ByImage, Key: string(r.Image.Image)})
	for _, m := range s.view.Members(r.ID) {
		s.touchMember(m)
	}
}

// touchMember touches the entries of indexes that a machine of a rollout is in.
func (s *Store) touchMember(m rollout.Member) {
	s.touch(view.Key{Table: view.ByMember, Key: string(m.Machine)})
	s.touch(view.Key{Table: view.ByImage, Key: string(m.From.Image)})
}

func (s *Store) dropRollout(k view.Key) {
	if r, err := record.DecodeRollout(s.data.Records[view.Rollouts][k.Key]); err == nil {
		s.touch(view.Key{Table: view.Numbers, Key: view.RolloutsKey})
		s.touch(view.Key{Table: view.ByImage, Key: string(r.Image.Image)})
	}
}

func (s *Store) dropMember(k view.Key) {
	if m, err := record.DecodeMember(s.data.Records[view.Members][k.Key]); err == nil {
		s.touchMember(m)
	}
}
