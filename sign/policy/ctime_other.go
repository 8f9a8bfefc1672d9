//go:build unix && !linux

package policy

import "syscall"

// changeTime leaves it to the time of modification, for the field has another name on each system.
func changeTime(*syscall.Stat_t) ctime { return ctime{} }
