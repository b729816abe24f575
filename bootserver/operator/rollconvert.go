package operator

import (
	"maps"

	"ingot/bootserver/api"
	"ingot/bootserver/fleet/rollout"
)

// policyOf converts the policy of a request. What was left out is zero, but for the canaries.
func policyOf(p api.RolloutPolicy) rollout.Policy {
	canary := rollout.DefaultCanary
	if p.Canary != nil {
		canary = *p.Canary
	}
	return rollout.Policy{Canary: canary, Waves: p.Waves, MaxUnavailable: rollout.Amount(p.MaxUnavailable),
		Spread: p.Spread, Bake: p.Bake, PauseAfter: p.PauseAfter, Window: p.Window, How: rollout.How(p.How), Quorum: p.Quorum,
		Drain: p.Drain, Patience: p.Patience, Trouble: p.Trouble, Attempts: p.Attempts, Test: rollout.Test(p.Test)}
}

func convertPolicy(p rollout.Policy) api.RolloutPolicy {
	return api.RolloutPolicy{Canary: &p.Canary, Waves: p.Waves, MaxUnavailable: api.Amount(p.MaxUnavailable),
		Spread: p.Spread, Bake: p.Bake, PauseAfter: p.PauseAfter, Window: p.Window, How: string(p.How), Quorum: p.Quorum,
		Drain: p.Drain, Patience: p.Patience, Trouble: p.Trouble, Attempts: p.Attempts, Test: api.RolloutTest(p.Test)}
}

// convertRollout converts a rollout, of whose machines so many are what to it.
func convertRollout(r rollout.Rollout, count map[string]int) api.Rollout {
	out := api.Rollout{ID: r.ID, Image: api.ImageRef(r.Image), Selector: r.Selector, Policy: convertPolicy(r.Policy),
		By: r.By, Created: r.Created, State: string(r.State), Since: r.Since, Wave: r.Wave, Waves: r.Waves,
		Machines: r.Machines,
		Ended:    r.Ended, Count: maps.Clone(count), Log: each(r.Log, func(e rollout.Entry) api.RolloutEntry {
			return api.RolloutEntry{At: e.At, State: string(e.State), Wave: e.Wave, By: e.By, Why: e.Why}
		})}
	if out.Count == nil {
		out.Count = map[string]int{}
	}
	if s := r.Stop; s != nil {
		out.Stop = &api.RolloutStop{Reason: string(s.Reason), At: s.At, By: s.By, Text: s.Text, More: s.More,
			Evidence: each(s.Evidence, func(e rollout.Evidence) api.RolloutEvidence { return api.RolloutEvidence(e) })}
	}
	return out
}

func rolloutMachineOf(s rollout.Standing) api.RolloutMachine {
	return api.RolloutMachine{Machine: s.Machine, Name: s.Name, Domain: s.Domain, Wave: s.Wave, From: api.ImageRef(s.From),
		Moved: s.Moved, Ordered: s.Ordered, Back: s.Gone, Is: s.Is, Why: s.Why,
		Results: each(s.Results, func(r rollout.Result) api.RolloutResult {
			return api.RolloutResult{Boot: r.Boot, Seq: r.Seq, Class: string(r.Class), At: r.At, Stage: r.Stage, Code: r.Code,
				Reason: r.Reason, Late: r.Late, Again: r.Again, Void: r.Void}
		})}
}
