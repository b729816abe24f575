package archtest

import (
	"bufio"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// exceptionsFile lists what breaks a rule and is known, one per line: the rule, a space and the
// thing. It shrinks: an entry that is no longer needed is removed, and a new one needs a reason
// that a reviewer accepts.
const exceptionsFile = "testdata/exceptions.txt"

var loadExceptions = sync.OnceValues(func() ([]string, error) {
	f, err := os.Open(exceptionsFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if line := strings.TrimSpace(lines.Text()); line != "" && line[0] != '#' {
			list = append(list, line)
		}
	}
	return list, nil
})

// violations collects what breaks one rule and compares it with the exceptions.
type violations struct {
	rule  string
	found map[string][]string // why, by thing
}

func newViolations(rule string) *violations { return &violations{rule, map[string][]string{}} }

// add notes that a thing breaks the rule, with the sentence to print.
func (v *violations) add(thing, why string) { v.found[thing] = append(v.found[thing], why) }

// report fails the test for each thing that is not an exception.
func (v *violations) report(t *testing.T) {
	t.Helper()
	list, err := loadExceptions()
	if err != nil {
		t.Fatal(err)
	}
	for thing, why := range v.found {
		if slices.Contains(list, v.rule+" "+thing) {
			continue
		}
		if len(why) > 5 {
			why = append(why[:5:5], "and more")
		}
		t.Errorf("%s %s:\n\t%s", v.rule, thing, strings.Join(why, "\n\t"))
	}
	for _, e := range list {
		rule, thing, _ := strings.Cut(e, " ")
		if _, needed := v.found[thing]; rule == v.rule && !needed {
			v.unneeded(t, e)
		}
	}
}

// unneeded handles an exception that nothing needs any more.
func (v *violations) unneeded(t *testing.T, exception string) {
	t.Helper()
	t.Errorf("%s: the exception %q is no longer needed; remove it", exceptionsFile, exception)
}

// exceptionNumber is the number that the exceptions allow for a rule instead of its own; 0 if there
// is none.
func exceptionNumber(t *testing.T, rule string) int {
	t.Helper()
	list, err := loadExceptions()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if number, ok := strings.CutPrefix(e, rule+" "); ok {
			n, err := strconv.Atoi(number)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return 0
}
