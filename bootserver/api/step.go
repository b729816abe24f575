package api

import (
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"ingot/bootserver/advice"
)

// StepCode identifies a Step. Codes keep their meaning: programs and pages go by them.
type StepCode string

// Step is something that an operator can do next. Clients render it in their own way.
type Step struct {
	Code   StepCode          `json:"code"`
	Params map[string]string `json:"params,omitempty" doc:"Parameters of the code, by name."`
}

// StepOf converts a step.
func StepOf(s advice.Step) Step { return Step{StepCode(s.Code), s.Params} }

// Command renders the step for the command line. It is empty for a code that this program does not
// know.
func (s Step) Command() string {
	return advice.Step{Code: advice.Code(s.Code), Params: s.Params}.Command()
}

// Schema implements huma.SchemaProvider: all codes, with a sentence each.
func (StepCode) Schema(huma.Registry) *huma.Schema {
	s := &huma.Schema{Type: huma.TypeString}
	var words []string
	for _, m := range advice.Meanings {
		words = append(words, "- `"+string(m.Code)+"`: "+m.Explanation)
		s.Enum = append(s.Enum, string(m.Code))
	}
	s.Description = "What the step is. Newer servers may answer codes that are not listed.\n" + strings.Join(words, "\n")
	return s
}
