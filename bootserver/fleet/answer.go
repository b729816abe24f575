package fleet

import (
	"slices"
	"time"
)

// Answered is a question that an operator answered.
type Answered struct {
	About string    `json:"about"`
	At    time.Time `json:"at"`
}

// maxAnswered bounds how many answers are remembered of a machine.
const maxAnswered = 16

// Answer notes that the question of a machine, if it has one, is answered: it
// is not asked the same again.
func Answer(m Machine, now time.Time) Machine {
	if m.Ask != nil {
		m.Answered = remember(m.Answered, Answered{m.Ask.About, now})
		m.Ask = nil
	}
	return m
}

// remember adds answers to a list, which it leaves as it is.
func remember(list []Answered, more ...Answered) []Answered {
	for _, a := range more {
		if a.About != "" {
			list = append(slices.DeleteFunc(slices.Clone(list), func(o Answered) bool { return o.About == a.About }), a)
		}
	}
	return list[max(0, len(list)-maxAnswered):]
}

// answered is when a question of the machine was answered; zero: never.
func (m *Machine) answered(about string) time.Time {
	for _, a := range m.Answered {
		if a.About == about {
			return a.At
		}
	}
	return time.Time{}
}
