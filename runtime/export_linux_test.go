package runtime

import (
	"context"
	"io"
	"os"
	"slices"
	"time"

	"hpcimg/mount"
	"hpcimg/squashfs"

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
	h := &host{uid: f.UID, gid: f.GID, groups: []int{f.GID}, admin: f.Admin, initial: true, loop: f.Admin, squashfs: func() bool { return !f.NoSquashfs }, setAttr: !f.OldKernel, staging: "/tmp"}
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

// KeyOf is the name that the files of a plan's session have, AliasOf that of the link to its socket.
func (s *Session) KeyOf(p *Plan) string { return s.names(p).key }

func (s *Session) AliasOf(p *Plan) string { return s.names(p).alias }

// Dir is the directory of the session.
func (s *Session) Dir() string { return s.dir.Name() }

// SetPatience sets how long to wait for a leader.
func (s *Session) SetPatience(d time.Duration) { s.patience = d }

// MemoryOf is memoryOf.
func MemoryOf(proc, cgroup string) int64 { return memoryOf(proc, cgroup) }

// ResolveIn resolves a name in a directory as in an image.
func ResolveIn(dir, name string) (found string, missing []string, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	image := &dirImage{dir: f}
	defer image.Close()
	l := layout{}
	l.add(&layer{at: "/", tree: image})
	found, _, missing, err = l.resolve(name)
	return found, missing, err
}

// ReceiveWelcome takes what a leader sends, says how many descriptors that were, and closes all.
func ReceiveWelcome(ctx context.Context, conn *os.File, wanted string, private bool) (int, error) {
	m := &membership{conn: conn}
	defer m.close()
	err := m.receive(ctx, wanted, private)
	n := 0
	for _, f := range []*os.File{m.user, m.mnt, m.fuse} {
		if f != nil {
			n++
		}
	}
	return n, err
}

// Preload is preload.
func Preload(tree mount.Tree, r *squashfs.Reader, program string) { preload(tree, r, program) }

// NeedsOf is needsOf.
func NeedsOf(f io.ReaderAt) (interpreter string, libraries []string, ok bool) {
	n, ok := needsOf(f)
	return n.interpreter, n.libraries, ok
}
