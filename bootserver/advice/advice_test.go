package advice

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// declared are the constants of type Code.
func declared(t *testing.T) (list []Code) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "advice.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		v, is := n.(*ast.ValueSpec)
		if !is || len(v.Values) != 1 {
			return true
		}
		if typ, named := v.Type.(*ast.Ident); named && typ.Name == "Code" {
			text, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, Code(text))
		}
		return true
	})
	return list
}

// TestMeanings: each code is described once, with a command and a sentence that name its parameters.
func TestMeanings(t *testing.T) {
	codes := declared(t)
	if len(codes) < 15 || len(codes) != len(Meanings) {
		t.Errorf("%d codes are declared, %d described", len(codes), len(Meanings))
	}
	for _, c := range codes {
		m, known := meaningOf(c)
		if !known || !strings.HasPrefix(m.command, "ingot ") || !strings.HasSuffix(m.Explanation, ".") {
			t.Errorf("code %q is described as %+v", c, m)
		}
		for _, p := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(m.command, -1) {
			if !slices.Contains(m.Parameters, p[1]) {
				t.Errorf("the command of %q needs %q, which is not a parameter of it", c, p[1])
			}
		}
		_, parameters, _ := strings.Cut(m.Explanation, "Parameter")
		for _, p := range slices.Concat(m.Parameters, m.Optional) {
			if !strings.Contains(parameters, p) {
				t.Errorf("the sentence of %q does not name its parameter %s: %s", c, p, m.Explanation)
			}
		}
		for _, p := range m.Optional {
			if !strings.Contains(options[p], "{"+p+"}") {
				t.Errorf("there is no option for the parameter %s of %q", p, c)
			}
		}
	}
}

// TestCommand: commands are made of a code and its parameters, whatever these hold.
func TestCommand(t *testing.T) {
	for _, c := range []struct {
		step Step
		want string
	}{
		{New(ShowConsole, "machine", "node01"), "ingot console node01"},
		{New(ShowConsole, "machine", "node01", "boot", "01000000"), "ingot console node01 --boot 01000000"},
		{New(ShowNetwork, "machine", "node01"), "ingot network"},
		{New(MergeMachines, "from", "{into}", "into", "m-1"), "ingot machine merge '{into}' m-1"},
		{New(ResumeMachine), "ingot resume MACHINE"},
		{New("of-a-newer-server", "machine", "node01"), ""},
		{Step{}, ""},
	} {
		if got := c.step.Command(); got != c.want {
			t.Errorf("the command of %+v is %q; want %q", c.step, got, c.want)
		}
	}
	if s := New(ShowNetwork, "machine", "node01"); s.Params != nil {
		t.Errorf("a step has parameters that its code does not have: %+v", s)
	}
}

// TestAnswers: the steps answer the question, and never merge a machine with itself.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		q           Question
		same, other string
	}{
		{Question{"m-a", "node01", "m-b", false}, "ingot machine merge m-a m-b",
			"ingot machine approve m-a --name NAME --image PROFILE:VERSION"},
		{Question{"m-a", "node01", "m-b", true}, "ingot machine merge m-a m-b", "ingot machine approve node01"},
		{Question{"m-a", "node01", "m-a", false}, "ingot machine approve node01", "ingot machine forget node01"},
	} {
		if same, other := c.q.Answers(); same.Command() != c.same || other.Command() != c.other {
			t.Errorf("the answers to %+v are %q and %q; want %q and %q", c.q, same.Command(), other.Command(), c.same,
				c.other)
		}
	}
}

// TestHostileParameters: what a machine chose is one argument of a command that is pasted, or it is not in it.
func TestHostileParameters(t *testing.T) {
	for volume, want := range map[string]string{
		"data":                      "ingot grant node1 data --disk 'S/N 1' --adopt",
		`x $(id>/tmp/x) "` + "`id`": "ingot grant node1 'x $(id>/tmp/x) \"`id`' --disk 'S/N 1' --adopt",
		"--disk":                    "ingot grant node1 VOLUME --disk 'S/N 1' --adopt",
		"a\nb":                      "ingot grant node1 VOLUME --disk 'S/N 1' --adopt",
	} {
		s := New(AdoptVolume, "machine", "node1", "volume", volume, "disk", "S/N 1")
		if got := s.Command(); got != want {
			t.Errorf("for volume %q the command is %s; want %s", volume, got, want)
		}
	}
}
