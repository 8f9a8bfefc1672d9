package estargz

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"runtime"

	"github.com/opencontainers/go-digest"

	"hpcimg/convert/internal/layer"
)

const (
	defaultChunk = 4 << 20
	maxChunk     = 64 << 20
	dataLevel    = 7 // by default
	textLevel    = 8
	maxLevel     = 9
)

// Options say how to write a blob. The zero value of a field is its default.
type Options struct {
	// ChunkSize is the most that one gzip member holds of a file, at most 64 MiB. Default 4 MiB.
	ChunkSize int
	// Level of compression, 1 to 9. Default: 8 for what looks like text, which gains most from it, else 7. These are the fastest
	// that keep blobs within 3 % of those of the format's Go package at its own default, which is 9: seven directories of a
	// Debian system came to between 0 and 1.2 % more, where 6 made up to 4, and 7 for all up to 2.5. Text of few words in no order is
	// the exception, with up to 10 %; 9 stays within 3 % there too, and takes about as long as theirs.
	Level int
	// Workers compress. Default GOMAXPROCS; 1 does everything in the caller's goroutine. The blob is the same for any number.
	Workers int
	// Prioritized are paths of files that a reader is to fetch ahead: they come first, in this order, with the directories that
	// lead to them and the files that they are links to. Absolute paths and relative ones are the same. The stream is then read
	// twice: if it is one that can be sought in, nobody may change it in the meantime, for who verifies it does so once.
	Prioritized []string
	// SpoolDir is where a tar stream is put aside if some of its files are to come first and it is not an io.ReadSeeker.
	SpoolDir string
	// Limits bound what the tar stream may have.
	Limits Limits
}

// Limits bound what a tar stream may have. The zero value of a field is its default, which is that of [layer.Budget].
type Limits struct {
	Entries int64 // files and chunks of files; default 5,000,000
	Bytes   int64 // of the stream, and of the one in the blob; default 1 TiB
	Text    int64 // of names, link targets, owners' names and extended attributes; default 1 GiB
}

// Result says what has been written.
type Result struct {
	Digest    digest.Digest // of the blob
	DiffID    digest.Digest // of the tar stream in the blob
	TOCDigest digest.Digest // of the table of contents, for the annotation of the layer
	Size      int64         // of the blob
	// UncompressedSize is that of the tar stream in the blob.
	UncompressedSize int64
	// NotFound are the elements of Options.Prioritized that the stream does not have.
	NotFound []string
}

func (o *Options) withDefaults() (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	for _, f := range []struct {
		name     string
		value    *int
		def, max int
	}{
		{"ChunkSize", &c.ChunkSize, defaultChunk, maxChunk},
		{"Level", &c.Level, 0, maxLevel},
		{"Workers", &c.Workers, runtime.GOMAXPROCS(0), 1 << 10},
	} {
		if *f.value < 0 || *f.value > f.max {
			return c, fmt.Errorf("%w: %s %d is not between 0 and %d", fs.ErrInvalid, f.name, *f.value, f.max)
		}
		if *f.value == 0 {
			*f.value = f.def
		}
	}
	for _, f := range []struct {
		value *int64
		def   int64
	}{{&c.Limits.Entries, defaultEntries}, {&c.Limits.Bytes, defaultBytes}, {&c.Limits.Text, defaultText}} {
		if *f.value == 0 {
			*f.value = f.def
		}
	}
	return c, nil
}

// Write reads the uncompressed tar stream r to its end and writes it to w as an eStargz blob. Errors of r and w are returned as
// they are; what has been written up to then is worthless. Write returns when it no longer uses r and w, so a call of theirs that
// blocks delays a cancellation.
func Write(ctx context.Context, w io.Writer, r io.Reader, opts *Options) (*Result, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	p, err := newPipeline(ctx, w, &o)
	if err != nil {
		return nil, err
	}
	b := &builder{cutter: cutter{pipeline: p, chunk: o.ChunkSize}, names: newNames(&o.Limits), limits: o.Limits}
	notFound, err := b.build(ctx, r, &o)
	if err == nil {
		err = b.finish()
	}
	// An error of a later stage is why the first one was stopped, not the other way round.
	if late := p.close(); late != nil {
		err = late
	}
	if err != nil {
		return nil, err
	}
	res := p.result()
	res.NotFound = notFound
	return res, nil
}

// builder turns the entries of the input into those of the blob.
type builder struct {
	cutter
	names    *names
	limits   Limits
	entries  int64 // written, chunks included
	replaced map[int]bool
}

func (b *builder) build(ctx context.Context, r io.Reader, o *Options) (notFound []string, err error) {
	if len(o.Prioritized) > 0 {
		return b.sorted(ctx, r, o)
	}
	if err := b.landmark(noPrefetchLandmark); err != nil {
		return nil, err
	}
	src := newSource(ctx, r, o.Limits.Bytes)
	for {
		h, err := src.next()
		if err == io.EOF {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		replaced, err := b.names.add(h)
		if err != nil {
			return nil, &layer.EntryError{Name: h.name, Err: err}
		}
		if replaced >= 0 {
			if b.replaced == nil {
				b.replaced = make(map[int]bool)
			}
			b.replaced[replaced] = true
		}
		if err := b.write(h, src); err != nil {
			return nil, err
		}
	}
}

// write adds h with its contents, which are what contents has next.
func (b *builder) write(h *header, contents io.Reader) error {
	b.entries += max(1, (h.size+int64(b.chunk)-1)/int64(b.chunk))
	if b.entries > b.limits.Entries {
		return &layer.LimitError{What: "entries", Limit: b.limits.Entries}
	}
	if h.size > b.limits.Bytes-b.written {
		return &layer.LimitError{What: "bytes in a layer", Limit: b.limits.Bytes}
	}
	if err := b.header(h); err != nil {
		return err
	}
	return b.payload(contents, h.size)
}

// landmark adds a file that tells a reader how far to fetch ahead.
func (b *builder) landmark(name string) error {
	h := landmarkHeader(name)
	return b.write(h, landmarkContents())
}
