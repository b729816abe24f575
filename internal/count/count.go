// Package count writes numbers of things.
package count

import (
	"fmt"
	"strings"
)

// Of is "1 machine", "3 machines", "0 entries" for "entry". The plural is made with s, or ies.
func Of(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if stem, is := strings.CutSuffix(noun, "y"); is {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Verb is one for 1 thing, and otherwise many: Verb(n, "is", "are").
func Verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
