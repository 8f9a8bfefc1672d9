package squashfs

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"runtime"
	"sync"
	"sync/atomic"
)

// ExtractOptions are the options of [Extract].
type ExtractOptions struct {
	// Source is the directory of the image whose contents are extracted, or
	// a single file; "" means the root. A symbolic link is not followed.
	Source string
	// Workers is how many files, and parts of large files, are written at a
	// time; 0 means GOMAXPROCS.
	Workers int
	// NoOwner leaves files to the user who extracts.
	NoOwner bool
	// NoXattrs leaves extended attributes out.
	NoXattrs bool
	// NoDevices leaves devices out. Named pipes and sockets are made.
	NoDevices bool
	// MaxBytes bounds the bytes written, holes not counted; 0 means no limit.
	MaxBytes int64
	// MaxEntries bounds the number of entries; 0 means no limit.
	MaxEntries int64
	// Progress is called with the bytes that have been written since the last
	// time, holes not counted, by several goroutines. It must return fast.
	Progress func(n int64)
}

// ExtractResult says what [Extract] has done.
type ExtractResult struct {
	Directories int64
	Files       int64
	Symlinks    int64
	HardLinks   int64 // further names of files already counted
	Specials    int64 // devices, named pipes, sockets
	Bytes       int64 // written to files

	// Skipped describes what could not be restored, the first thousand
	// things of each kind. SkippedCounts has the total of each kind.
	Skipped       []Skipped
	SkippedCounts map[SkippedKind]int64
}

// SkippedKind is what could not be restored of a file.
type SkippedKind string

// Kinds of what may be skipped.
const (
	SkippedOwner  SkippedKind = "owner"
	SkippedMode   SkippedKind = "mode" // setuid and setgid, whenever the owner is skipped
	SkippedXattr  SkippedKind = "xattr"
	SkippedDevice SkippedKind = "device"
	SkippedTime   SkippedKind = "time"
)

// Skipped is one thing that could not be restored.
type Skipped struct {
	Path string // in the image
	Kind SkippedKind
	Err  error
}

const maxSkipped = 1000

// maxExtractDepth bounds the nesting of directories, each of which is held
// open while files are written to it.
const maxExtractDepth = 512

// Extract writes files of the image into a directory. Nothing is written
// outside it, whatever names and links the image has or others put there in
// the meantime. Directories that exist are kept and filled; any other file that
// exists is an error.
//
// Ownership, devices and extended attributes are restored as far as the
// process may; what it may not is recorded in the result, and is no error. A
// file whose owner is not restored loses its setuid and setgid bits. Holes stay
// holes. After an error or cancellation, what has been written remains.
func Extract(ctx context.Context, r *Reader, root *os.Root, opts *ExtractOptions) (*ExtractResult, error) {
	var o ExtractOptions
	if opts != nil {
		o = *opts
	}
	o.Source = cmp.Or(o.Source, ".")
	o.Workers = cmp.Or(max(o.Workers, 0), runtime.GOMAXPROCS(0))
	if !fs.ValidPath(o.Source) {
		return nil, &fs.PathError{Op: "extract", Path: o.Source, Err: fs.ErrInvalid}
	}
	in, err := r.find("extract", o.Source, false)
	if err != nil {
		return nil, err
	}
	dest, err := openDest(root)
	if err != nil {
		return nil, err
	}
	x := newExtractor(ctx, r, root, o)
	top := &extractDir{dest: dest}
	top.pending.Store(1)
	if in.IsDir() {
		top.in = in
		x.base = o.Source
		err = x.walk(top, 0)
	} else {
		x.base = path.Dir(o.Source)
		err = x.entry(top, path.Base(o.Source), in, 0)
		x.handOut(top)
	}
	x.release(top)
	return x.finish(err)
}

// ExtractTo is [Extract] into the directory dir, which is made if it does not
// exist.
func ExtractTo(ctx context.Context, r *Reader, dir string, opts *ExtractOptions) (*ExtractResult, error) {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	res, err := Extract(ctx, r, root, opts)
	return res, errors.Join(err, root.Close())
}

// extractor carries one Extract.
type extractor struct {
	parent context.Context //nolint:containedctx // lives as long as the call that it belongs to
	ctx    context.Context //nolint:containedctx // of the parent; done after the first error
	cancel context.CancelCauseFunc
	r      *Reader
	root   *os.Root
	o      ExtractOptions
	jobs   chan func()
	wg     sync.WaitGroup
	base   string             // in the image, of what becomes the destination
	links  map[InodeRef]place // first name of files with several
	count  int64

	files     atomic.Int64
	bytes     atomic.Int64
	fragments *fragmentShelf

	mu       sync.Mutex
	res      ExtractResult
	deferred []*extractDir // directories whose mode would shut us out
}

func newExtractor(ctx context.Context, r *Reader, root *os.Root, o ExtractOptions) *extractor {
	x := &extractor{parent: ctx, r: r, root: root, o: o, links: make(map[InodeRef]place)}
	x.fragments = newFragmentShelf(r, o.Workers)
	x.ctx, x.cancel = context.WithCancelCause(ctx)
	x.res.SkippedCounts = make(map[SkippedKind]int64)
	if o.Workers > 1 {
		// The queue bounds how many directories wait open for their files.
		x.jobs = make(chan func(), 4*o.Workers)
		for range o.Workers {
			x.wg.Go(func() {
				for job := range x.jobs {
					job()
				}
			})
		}
	}
	return x
}

// finish waits for all jobs and returns the result and the first error.
func (x *extractor) finish(err error) (*ExtractResult, error) {
	if err != nil {
		x.fail(place{}, err)
	}
	if x.jobs != nil {
		close(x.jobs)
		x.wg.Wait()
	}
	for _, d := range x.deferred { // children before their parents, as they finished
		if x.ctx.Err() == nil {
			x.finishDeferred(d)
		}
	}
	err = context.Cause(x.ctx)
	if x.parent.Err() != nil && errors.Is(err, context.Cause(x.parent)) {
		err = x.parent.Err()
	}
	x.cancel(nil)
	x.res.Files, x.res.Bytes = x.files.Load(), x.bytes.Load()
	return &x.res, err
}

// do runs job now or has a worker run it.
func (x *extractor) do(job func()) {
	if x.jobs == nil {
		job()
		return
	}
	x.jobs <- job
}

// fail stops everything. The first error counts.
func (x *extractor) fail(p place, err error) { x.cancel(x.located(p, err)) }

// add changes the result.
func (x *extractor) add(f func(*ExtractResult)) {
	x.mu.Lock()
	f(&x.res)
	x.mu.Unlock()
}

// skip records what could not be restored.
func (x *extractor) skip(p place, kind SkippedKind, err error) {
	x.add(func(res *ExtractResult) {
		if res.SkippedCounts[kind]++; res.SkippedCounts[kind] <= maxSkipped {
			res.Skipped = append(res.Skipped, Skipped{x.path(p), kind, err})
		}
	})
}
