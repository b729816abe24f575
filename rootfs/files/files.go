// Package files holds what every root carries besides its packages: the unit
// of the agent. The builder lays FS over the root below skel/.
package files

import "embed"

// FS holds the skeleton below "skel".
//
//go:embed skel
var FS embed.FS
