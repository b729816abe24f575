package registry

import "time"

// SetPauses makes tests of patience quick.
func SetPauses(o *Options, pause, stall time.Duration) { o.pause, o.stall = pause, stall }
