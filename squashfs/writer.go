package squashfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"hpcimg/internal/atomicfile"
	"hpcimg/internal/garbage"
)

// WriterOptions configures a [Writer]. The zero value, like nil, is gzip at
// level 6 with 128 KiB blocks and GOMAXPROCS workers.
type WriterOptions struct {
	Compression Compression
	Level       int // 0 is the compressor's default: gzip 6, zstd 3, lz4 1
	BlockSize   int // power of 2 from 4 KiB to 1 MiB; 0 is 128 KiB
	Workers     int // 0 is GOMAXPROCS; 1 means no goroutines

	ModTime time.Time // of the image and of directories not added; zero is 1970
	AllRoot bool      // make everything belong to user and group 0

	NoFragments  bool // do not pack small files together
	NoDuplicates bool // store equal files as often as they come
	NoExport     bool // write no export table

	Pool *Pool // shared with others; nil makes one of Workers
}

// Writer makes an image from entries: it is a [Packer] and a [Builder] in one.
// The image is a function of the entries, their order and the options.
//
// The methods of a Writer must be called from one goroutine at a time.
type Writer struct {
	w       io.WriterAt
	packer  *Packer
	builder *Builder
	files   []nodeID // by number of the Packer
	size    int64
	closed  bool
	garbage garbage.Collector

	mu      sync.Mutex // guards builder and files while the packer works
	failure error      // of what came from the packer
}

// NewWriter returns a Writer whose image begins at the start of w. What w has
// there must be zeros, or nothing.
func NewWriter(w io.WriterAt, opts *WriterOptions) (*Writer, error) {
	if opts == nil {
		opts = &WriterOptions{}
	}
	image := &Writer{w: w}
	var err error
	image.packer, err = NewPacker(w, contentAlign, &PackerOptions{
		Compression:  opts.Compression,
		Level:        opts.Level,
		BlockSize:    opts.BlockSize,
		Workers:      opts.Workers,
		NoFragments:  opts.NoFragments,
		NoDuplicates: opts.NoDuplicates,
		Pool:         opts.Pool,
		Done:         image.packed,
	})
	if err != nil {
		return nil, err
	}
	image.builder, err = NewBuilder(&BuilderOptions{
		Compression: opts.Compression,
		Level:       opts.Level,
		BlockSize:   opts.BlockSize,
		ModTime:     opts.ModTime,
		NoExport:    opts.NoExport,
		AllRoot:     opts.AllRoot,
	})
	if err != nil {
		return nil, err
	}
	return image, nil
}

// packed hands contents that are complete to the Builder, which needs far less
// room for them.
func (w *Writer) packed(n int, c *Content) {
	w.mu.Lock()
	defer w.mu.Unlock()
	// The one pack will be number 0.
	if err := w.builder.setContent(w.files[n], c, 0); err != nil && w.failure == nil {
		w.failure = err
	}
}

// Add adds an entry. For a regular file it reads e.Size bytes from r, which may
// be nil if that is 0; Content and Pack are not used. Errors of the entry,
// but not of its contents, leave the Writer as it was and may be ignored.
func (w *Writer) Add(ctx context.Context, e Entry, r io.Reader) error {
	if w.closed {
		return errWriterClosed
	}
	e.Content, e.Pack = nil, 0
	if e.HardLink != "" || !e.Mode.IsRegular() {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.builder.Add(e)
	}
	if e.Size < 0 || e.Size > 0 && r == nil {
		return &EntryError{Path: e.Path, Err: fmt.Errorf("%w: Size is %d", fs.ErrInvalid, e.Size)}
	}
	if len(w.files)%lookEvery == lookEvery-1 {
		w.garbage.Look()
	}
	// The node is made before its contents: a bad entry costs nothing.
	if err := w.addFile(&e); err != nil {
		return err
	}
	if _, err := w.packer.Add(ctx, r, e.Size); err != nil {
		return fmt.Errorf("%w (contents of %q)", err, e.Path)
	}
	return nil
}

// lookEvery is after how many files there may be garbage worth collecting, of small ones.
const lookEvery = 4096

func (w *Writer) addFile(e *Entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.builder.addNode(e)
	if err == nil {
		w.files = append(w.files, n)
	}
	return err
}

var errWriterClosed = errors.New("squashfs: writer is closed")

// Close completes the image. It must be called even if Add has failed.
func (w *Writer) Close() error { return w.close(context.Background()) }

func (w *Writer) close(ctx context.Context) error {
	if w.closed {
		return errWriterClosed
	}
	w.closed = true
	pack, err := w.packer.Close()
	if err != nil {
		return err
	}
	if w.failure != nil {
		return w.failure
	}
	w.files = nil
	// Contents refer to it already.
	if _, err := w.builder.AddPack(pack, contentAlign); err != nil {
		return err
	}
	w.size, err = w.builder.WriteTables(ctx, w.w, contentAlign+pack.Size)
	return err
}

// Size returns the size of the image after Close.
func (w *Writer) Size() int64 { return w.size }

// Stats returns what has been done so far. It may be called at any time, from
// any goroutine.
func (w *Writer) Stats() PackerStats { return w.packer.Stats() }

// Create makes the image file at path from what fill adds to the Writer, which
// fill must not close. The file appears when it is complete and replaces an
// older one; if anything fails, or ctx is cancelled, there is none and an
// older one is left alone.
func Create(ctx context.Context, path string, opts *WriterOptions, fill func(context.Context, *Writer) error) error {
	f, err := atomicfile.Create(path, nil)
	if err != nil {
		return fmt.Errorf("squashfs: %w", err)
	}
	defer f.Abort()
	if err := writeImage(ctx, f.File, opts, fill); err != nil {
		return err
	}
	if err := f.Commit(); err != nil {
		return fmt.Errorf("squashfs: %w", err)
	}
	return nil
}

func writeImage(ctx context.Context, f *os.File, opts *WriterOptions, fill func(context.Context, *Writer) error) error {
	w, err := NewWriter(f, opts)
	if err != nil {
		return err
	}
	if err := fill(ctx, w); err != nil {
		_, _ = w.packer.Close() // waits; fill's error says more
		return err
	}
	if err := w.close(ctx); err != nil {
		return err
	}
	// Duplicates may have left zeros behind the end.
	if err := f.Truncate(w.size); err != nil {
		return fmt.Errorf("squashfs: %w", err)
	}
	return nil
}
