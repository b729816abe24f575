package waves

import (
	"fmt"
	"strings"

	"ingot/bootserver/api"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/web/format"
)

// Badge is the mark of a rollout, with its state in words.
type Badge struct {
	Mark Mark
	Word string
}

// BadgeOf is that of a rollout.
func BadgeOf(r api.Rollout) Badge {
	in := ""
	if r.Wave > 0 {
		in = fmt.Sprintf(" in wave %d of %d", r.Wave, r.Waves-1)
	}
	switch at := rollout.State(r.State); at {
	case rollout.Halted:
		return Badge{Halted, "Halted"}
	case rollout.Paused:
		return Badge{Paused, "Paused"}
	case rollout.Done:
		return Badge{Done, "Done"}
	case rollout.Back:
		return Badge{Aborted, "Aborted"}
	case rollout.Aborting:
		return Badge{Aborted, "Aborting"}
	case rollout.Wave:
		return Badge{Moving, fmt.Sprintf("Wave %d of %d", r.Wave, r.Waves-1)}
	case rollout.Baking:
		return Badge{Moving, "Baking" + in}
	}
	return Badge{Moving, format.Title(r.State)}
}

// Badge is the mark of the rollout.
func (s Strip) Badge() Badge { return BadgeOf(s.Rollout) }

// Stopped reports whether a person must decide.
func (s Strip) Stopped() bool { return rollout.State(s.State).Stopped() }

// Line is the rollout in a sentence, without its state, which the badge says.
func (s Strip) Line() string {
	if s.Stop != nil && s.Stopped() {
		if _, rest, ok := strings.Cut(s.Stop.Text, ": "); ok {
			return format.Sentence(rest)
		}
		return format.Sentence(s.Stop.Text)
	}
	text := fmt.Sprintf("%d of %d healthy, ", s.Counts.Healthy, s.Counts.All())
	if s.Counts.Failed == 0 {
		return text + "none failed"
	}
	return text + fmt.Sprintf("%d failed", s.Counts.Failed)
}
