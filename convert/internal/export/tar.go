package export

import (
	"context"
	"errors"
	"io"
	"runtime"

	"hpcimg/convert/internal/layer"
	"hpcimg/squashfs"
)

// TarOptions says how to write a tar stream. A nil *TarOptions and the zero value mean the same.
type TarOptions struct {
	Workers int // decoding ahead; default GOMAXPROCS, 1 does everything in the caller's goroutine
	// Layer leaves out what would not be itself in a layer: files that have the name of a whiteout.
	Layer bool
	// Progress is called with the bytes of files that have been written since the last time.
	Progress func(n int64)
	// Skipped is called for what is left out; of a directory, all that is in it is left out as well.
	Skipped func(path string)
	// Accept says which entries are written, and with directories what is in them. Default: all.
	Accept func(path string) bool
	// Rename gives entries other names in the stream.
	Rename func(path string) string
}

// Tar writes the tree to w, the end of the archive included. Errors of w are passed on, those about an entry are
// *layer.EntryError; what has been written by then is worthless. Callbacks are not called concurrently. Tar returns when it no
// longer uses r and w, so a call of theirs that blocks delays a cancellation.
func Tar(ctx context.Context, w io.Writer, r *squashfs.Reader, opts *TarOptions) error {
	t := &tarWriter{w: w}
	if opts != nil {
		t.opts = *opts
	}
	workers := make([]func(*batch) error, workerCount(t.opts.Workers))
	for i := range workers {
		workers[i] = func(b *batch) error { return b.encode(t.opts.Rename) }
	}
	p := newPipeline(ctx, workers, t.consume)
	err := walkTree(p, r, &t.opts)
	// An error of a later stage is why the first one was stopped, not the other way round.
	if late := p.close(); late != nil {
		err = late
	}
	if err != nil {
		return err
	}
	return t.write(make([]byte, 2*tarBlock)) // end of archive
}

// tarWriter puts what has become of batches in a row.
type tarWriter struct {
	opts TarOptions
	w    io.Writer
}

func (t *tarWriter) consume(b *batch) error {
	if t.opts.Skipped != nil {
		for _, path := range b.skipped {
			t.opts.Skipped(path)
		}
	}
	if err := t.write(b.out); err != nil {
		return err
	}
	if t.opts.Progress != nil && b.contents > 0 {
		t.opts.Progress(int64(b.contents))
	}
	b.reset()
	return nil
}

func (t *tarWriter) write(p []byte) error {
	n, err := t.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

func workerCount(n int) int {
	if n > 0 {
		return n
	}
	return runtime.GOMAXPROCS(0)
}

// entryError says which entry an error is about, unless it is about none.
func entryError(path string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if _, ok := errors.AsType[*layer.EntryError](err); ok {
		return err
	}
	return &layer.EntryError{Name: path, Err: err}
}
