package api

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"ingot/bootserver/advice"
)

// TestSteps: a step goes over the wire as a code and its parameters; a client renders the command.
func TestSteps(t *testing.T) {
	step := StepOf(advice.New(advice.ShowConsole, "machine", "node01", "boot", "01000000"))
	text, err := json.Marshal(Why{Machine: "m-1", Name: "node01", Words: "Words.", Steps: []Step{step}})
	want := `{"machine":"m-1","name":"node01","words":"Words.",` +
		`"steps":[{"code":"show-console","params":{"boot":"01000000","machine":"node01"}}]}`
	if err != nil || string(text) != want {
		t.Errorf("an explanation is %s, %v; want %s", text, err, want)
	}
	var read Why
	if err := json.Unmarshal(text, &read); err != nil ||
		read.Steps[0].Command() != "ingot console node01 --boot 01000000" {
		t.Errorf("a client reads %+v, %v", read, err)
	}
	if got := (Step{Code: "of-a-newer-server"}).Command(); got != "" {
		t.Errorf("the command of a step that is not known is %q", got)
	}
}

// TestStepsAreInTheDocument: the OpenAPI document lists the codes of steps with a sentence each, and
// explanations have no commands.
func TestStepsAreInTheDocument(t *testing.T) {
	text, err := OpenAPI("test")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct {
					Enum        []advice.Code
					Description string
				}
			}
		}
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	is := doc.Components.Schemas["Step"].Properties["code"]
	for _, m := range advice.Meanings {
		if !slices.Contains(is.Enum, m.Code) || !strings.Contains(is.Description, m.Explanation) {
			t.Errorf("the document does not explain code %q", m.Code)
		}
	}
	if _, has := doc.Components.Schemas["Why"].Properties["next"]; has {
		t.Error("explanations still have commands of the command line in them")
	}
}
