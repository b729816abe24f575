// Package natural compares names as people sort them.
package natural

import (
	"cmp"
	"strconv"
	"strings"
)

// Compare compares names so that node2 comes before node10.
func Compare(a, b string) int {
	for a != "" && b != "" {
		i, j := digits(a), digits(b)
		if i > 0 && j > 0 {
			x, _ := strconv.ParseUint(a[:i], 10, 64) // too large a number compares as text below
			y, _ := strconv.ParseUint(b[:j], 10, 64)
			if c := cmp.Compare(x, y); c != 0 {
				return c
			}
			a, b = a[i:], b[j:]
			continue
		}
		if c := cmp.Compare(a[0], b[0]); c != 0 {
			return c
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

// digits is how many digits a text begins with.
func digits(s string) int { return len(s) - len(strings.TrimLeft(s, "0123456789")) }
