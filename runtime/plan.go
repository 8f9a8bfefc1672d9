package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"hpcimg/internal/squashfuse"
	"hpcimg/mount"
	"hpcimg/squashfs"
)

// Plan is what Start will do: a table of system calls, and what has to be at hand for it. A plan does not change and may be
// started any number of times, also at the same time. It keeps the file of the image open, until Close or until nobody
// refers to the plan any more.
type Plan struct {
	table
	image        string
	identity     identity
	file         *os.File // the image, if it is a file
	offset, size int64
	backend      Backend
	extractDir   string
	compares     bool // this process looks at the directory that the child has opened
	admit        func(ctx context.Context, f *os.File, offset, size int64) error
	admitOthers  func(ctx context.Context, f *os.File, offset, size int64) error
	onError      func(error)
	tree         *servedTree         // what BackendFUSE serves, if it is the same at each start
	squashfuse   *squashfuse.Program // what serves it for BackendSquashfuse
	program      string              // the command in the tree, if that is known
	owner        func(uid, gid uint32) (uint32, uint32)
	nodes        []mount.Node // what the tree has besides the image
	extras       []*extra     // images besides the one that the command runs in
	covered      bool         // an overlay without changes is laid over what is served
	tmpfsSize    int64
	tmpfsInodes  int64
	idMaps       [2][]string // arguments of the tools that map users and groups
	notes        []string
	env          []string
	open         *openFiles
	partial      *Spec // of a plan that does for guests only
}

// servedTree is what this process answers from, with the reader of the command's image if that is in it.
type servedTree struct {
	tree   mount.Tree
	reader *squashfs.Reader
}

func newPlan() *Plan {
	p := &Plan{}
	p.open = newOpenFiles(p.closeFiles)
	return p
}

// Compile checks a specification against this host and the contents of the image, and makes the plan. It changes nothing.
// Errors name what cannot be done: *BindError, *MemoryError, *LimitError, *fs.PathError, those of package squashfs, and fs.ErrInvalid
// for a field of the specification.
func Compile(ctx context.Context, spec *Spec) (*Plan, error) {
	plan, err := compile(ctx, spec)
	if err == nil {
		return plan, nil
	}
	if _, ok := errors.AsType[*BindError](err); ok {
		return nil, err
	}
	if _, ok := errors.AsType[*MemoryError](err); ok {
		return nil, err
	}
	if _, ok := errors.AsType[*LimitError](err); ok {
		return nil, err
	}
	return nil, fmt.Errorf("runtime: %w", err)
}

// Close closes the files of images, as soon as nothing that runs needs them. The plan cannot be started after that; what runs goes on.
// A second call does nothing.
func (p *Plan) Close() error { return p.open.end() }

func (p *Plan) closeFiles() error {
	var errs []error
	for _, x := range p.extras {
		errs = append(errs, x.Close())
	}
	if p.file != nil {
		errs = append(errs, p.file.Close())
	}
	return errors.Join(errs...)
}

// Backend is how the contents of the image are reached.
func (p *Plan) Backend() Backend { return p.backend }

// Notes are decisions of the plan that somebody may not expect: mounts left out, files left as they are.
func (p *Plan) Notes() []string { return append([]string(nil), p.notes...) }

// String is the dry run: every system call, in order, in the notation of strace. Descriptors have names, $root; their
// numbers are not known yet. Variables whose names speak of secrets have no values.
func (p *Plan) String() string {
	var b strings.Builder
	b.WriteString("# image " + p.image + ", backend " + string(p.backend) + "\n")
	for _, note := range p.notes {
		b.WriteString("# " + strings.ReplaceAll(note, "\n", " ") + "\n")
	}
	if p.backend == BackendKernel {
		b.WriteString("# $image is a mount by the kernel, over a loop device, at no place yet\n")
	}
	if p.squashfuse != nil {
		b.WriteString("# served by " + p.squashfuse.Path + ", " + p.squashfuse.Version + "\n")
	}
	for _, x := range p.extras {
		b.WriteString("# served too, as " + x.name + ": " + x.path + "\n")
	}
	if p.covered {
		b.WriteString("# where the kernel makes no overlay of what is served alone, that is seen without it\n")
	}
	for _, node := range p.nodes {
		b.WriteString("# served besides the image: " + node.Mode.String() + " " + node.Path + "\n")
	}
	p.table.write(&b)
	b.WriteString("# environment\n")
	for _, kv := range p.env {
		name, value, _ := strings.Cut(kv, "=")
		if secret(name) {
			value = "(not shown)"
		}
		b.WriteString(name + "=" + strings.ReplaceAll(value, "\n", `\n`) + "\n")
	}
	return b.String()
}

func secret(name string) bool {
	name = strings.ToUpper(name)
	for _, word := range []string{"SECRET", "TOKEN", "PASSW", "CREDENTIAL", "PRIVATE_KEY", "ACCESS_KEY", "API_KEY"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

// identity tells whether a path still leads to the same, unchanged file.
type identity struct {
	info  fs.FileInfo
	size  int64
	mtime time.Time
}

func identityOf(info fs.FileInfo) identity {
	return identity{info: info, size: info.Size(), mtime: info.ModTime()}
}

func (id identity) is(info fs.FileInfo) bool {
	if !os.SameFile(id.info, info) || id.info.IsDir() != info.IsDir() {
		return false
	}
	return info.IsDir() || id.size == info.Size() && id.mtime.Equal(info.ModTime())
}

// check returns err, which came with info, or that the file of this name is not the same, unchanged one.
func (id identity) check(op, name string, info fs.FileInfo, err error) error {
	if err == nil && !id.is(info) {
		err = &fs.PathError{Op: op, Path: name, Err: ErrImageChanged}
	}
	return err
}

// unchanged says whether the image is still the file for which the plan was made, or returns the error.
func (p *Plan) unchanged() error {
	info, err := os.Stat(p.image)
	err = p.identity.check("open", p.image, info, err)
	for _, x := range p.extras {
		if err == nil {
			err = x.unwritten()
		}
	}
	return err
}
