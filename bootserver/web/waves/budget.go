package waves

import (
	"cmp"
	"fmt"
	"slices"

	"ingot/bootserver/api"
	"ingot/bootserver/web/format"
)

// Budget is that of a failure domain, as a row of squares: those of unavailable machines are full.
type Budget struct {
	api.RolloutBudget
	Squares []Square
	Bound   int    // where the bound is, in the row
	Share   string // instead of squares, where there are too many
}

// Square is one machine of a budget.
type Square struct {
	X    string
	Full bool
}

const (
	mostSquares = 12
	squareStep  = 17
)

// Budgets draws the budget of each failure domain, the fullest first.
func Budgets(list []api.RolloutBudget) (rows []Budget) {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b api.RolloutBudget) int {
		return cmp.Compare(b.Unavailable-b.Most, a.Unavailable-a.Most)
	})
	for _, b := range list {
		n := max(b.Most, b.Unavailable)
		row := Budget{RolloutBudget: b, Share: format.Percent(float64(b.Unavailable), float64(n))}
		if n <= mostSquares {
			for i := range n {
				row.Squares = append(row.Squares, Square{fmt.Sprintf("%d.5", squareStep*i), i < b.Unavailable})
			}
			row.Bound = squareStep*b.Most - 3
		}
		rows = append(rows, row)
	}
	return rows
}

// Width is that of the squares.
func (b Budget) Width() int { return squareStep*max(len(b.Squares), 1) + 2 }
