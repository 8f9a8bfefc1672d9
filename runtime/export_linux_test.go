package runtime

import (
	"context"
	"slices"
	"time"

	"hpcimg/internal/fork"
)

// Facts are what a plan depends on besides specification and image.
type Facts struct {
	UID, GID   int
	Admin      bool
	OldKernel  bool // without mount_setattr
	NoSquashfs bool // of the kernel
}

// CompileOn is Compile for a host of which only facts are known.
func CompileOn(ctx context.Context, spec *Spec, f Facts) (*Plan, error) {
	h := &host{uid: f.UID, gid: f.GID, groups: []int{f.GID}, admin: f.Admin, initial: true, loop: f.Admin, squashfs: !f.NoSquashfs, setAttr: !f.OldKernel, staging: "/tmp"}
	return compileOn(ctx, spec, h)
}

// WithLine is withLines for one line.
func WithLine(file, line string) string { return string(withLines([]byte(file), []string{line})) }

// Calls are those of the plan.
func (p *Plan) Calls() []fork.Call { return p.calls }

// Inject returns the plan with a filter of system calls in front of call i.
func (p *Plan) Inject(i int, filter []byte) *Plan {
	changed := *p
	changed.calls = slices.Insert(slices.Clone(p.calls), i, fork.NoNewPrivs(), fork.Seccomp(filter))
	if p.extracted >= i {
		changed.extracted += 2
	}
	return &changed
}

// KeyOf is the name that the files of a plan's session have.
func (s *Session) KeyOf(p *Plan) string { return s.key(p) }

// SetPatience sets how long to wait for a leader.
func (s *Session) SetPatience(d time.Duration) { s.patience = d }

// MemoryOf is memoryOf.
func MemoryOf(proc, cgroup string) int64 { return memoryOf(proc, cgroup) }
