package runtime

import (
	"context"
	"syscall"
)

// Facts are what a plan depends on besides specification and image.
type Facts struct {
	UID, GID    int
	Admin       bool
	OldKernel   bool // without mount_setattr
	NoFileLimit uint64
}

// CompileOn is Compile for a host of which only facts are known.
func CompileOn(ctx context.Context, spec *Spec, f Facts) (*Plan, error) {
	h := &host{uid: f.UID, gid: f.GID, groups: []int{f.GID}, admin: f.Admin, initial: true, loop: f.Admin, setAttr: !f.OldKernel, staging: "/tmp"}
	if f.NoFileLimit != 0 {
		h.noFile = &syscall.Rlimit{Cur: f.NoFileLimit, Max: 1 << 20}
	}
	return compileOn(ctx, spec, h)
}

// WithLine is withLine.
func WithLine(file, line string) string { return string(withLine([]byte(file), line)) }
