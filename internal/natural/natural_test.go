package natural

import (
	"slices"
	"strings"
	"testing"
)

func TestCompare(t *testing.T) {
	names := []string{"node10", "node2", "node", "a1b10", "a1b9", "node2a", "node02"}
	slices.SortFunc(names, Compare)
	if got := strings.Join(names, " "); got != "a1b9 a1b10 node node2 node02 node2a node10" {
		t.Errorf("sorted: %s", got)
	}
}
