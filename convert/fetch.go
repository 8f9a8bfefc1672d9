package convert

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"hpcimg/image"
	"hpcimg/image/cache"
	"hpcimg/internal/atomicfile"
	"hpcimg/internal/meter"
	"hpcimg/sif"
	"hpcimg/squashfs"
)

// maxFile is the default of Limits.Bytes.
const maxFile = 1 << 40

// fetchTo makes dst of pieces.
func fetchTo(ctx context.Context, src *Source, dst string, o Options) (*Result, error) {
	earlier := o.Reuse
	o.Reuse = nil // those are for layers
	return publish(ctx, src, dst, o, func(j *job, out *atomicfile.File) error {
		return j.fetch(ctx, src.pieces, out.File, earlier)
	})
}

// resolve returns what is to be converted in place of pieces that cannot stay as they are: what is in the file, which is fetched to
// a temporary one.
func resolve(ctx context.Context, src *Source, o Options) (*Source, io.Closer, error) {
	if src.err != nil {
		return nil, nil, failure(StageOpen, SideSource, src.err)
	}
	if src.pieces == nil || src.pieces.wanted(&o) {
		return src, io.NopCloser(nil), nil
	}
	if len(src.layers) > 0 {
		c := *src
		c.pieces = nil
		return &c, io.NopCloser(nil), nil
	}
	temp, err := newTempFile(o.TempDir)
	if err != nil {
		return nil, nil, failure(StageOpen, SideDestination, err)
	}
	made, err := src.unpack(ctx, temp, o)
	if err != nil {
		_ = temp.Close()
		return nil, nil, err
	}
	return made, temp, nil
}

// unpack fetches the file to temp and opens it.
func (s *Source) unpack(ctx context.Context, temp *tempFile, o Options) (*Source, error) {
	earlier := o.Reuse
	o.Reuse = nil
	j := newJob(s, nil, o)
	defer j.close()
	if err := j.fetch(ctx, s.pieces, temp.File, earlier); err != nil {
		return nil, err
	}
	if s.pieces.form == FormSIF {
		f, err := sif.NewFile(temp, s.pieces.size)
		if err != nil {
			return nil, failure(StageOpen, SideSource, err)
		}
		return FromSIF(f)
	}
	r, err := squashfs.NewReader(temp, s.pieces.size, nil)
	if err != nil {
		return nil, failure(StageOpen, SideSource, err)
	}
	c := *s
	c.pieces, c.layers = nil, []layerSource{squashfsLayer{r}}
	return &c, nil
}

// fetch is what it takes to put pieces in their places.
type fetch struct {
	*job
	*pieces
	out  *os.File
	done []chan struct{} // closed when the piece is in place
	task *meter.Task
}

// fetch puts the pieces in their places in out: from the cache, from earlier files, and else from where they are. All of it is
// verified, piece by piece and as a whole.
func (j *job) fetch(ctx context.Context, p *pieces, out *os.File, reuse []string) error {
	if limit := cmp.Or(j.opts.Limits.Bytes, maxFile); p.size > limit {
		return failure(StageOpen, SideSource, &LimitError{What: "bytes in a file", Limit: limit})
	}
	f := &fetch{job: j, pieces: p, out: out, done: make([]chan struct{}, len(p.list))}
	j.result.Layers = make([]LayerResult, len(p.list))
	for i, one := range p.list {
		f.done[i] = make(chan struct{})
		j.result.Layers[i] = LayerResult{Digest: one.Digest, Size: one.Size, Segment: one.Size, Index: OriginSource}
	}
	f.task = j.meter.Begin(string(StageWrite), "", p.size)
	defer f.task.End()
	// The whole is hashed while it grows. Should that fail, so does the rest.
	g, groupCtx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.verify(groupCtx) })
	g.Go(func() error { return f.place(groupCtx, reuse) })
	if err := g.Wait(); err != nil {
		return failure(StageWrite, SideDestination, err)
	}
	if err := out.Truncate(p.size); err != nil {
		return failure(StageWrite, SideDestination, err)
	}
	j.result.Size, j.result.Arch = p.size, j.src.arch
	return failure(StageWrite, SideSource, f.check())
}

// check refuses what is no image at all. It says nothing of what a file system in it is like: digests say who has made it.
func (f *fetch) check() error {
	if f.form == FormSquashfs {
		_, err := squashfs.NewReader(f.out, f.size, nil)
		return err
	}
	_, err := sif.NewFile(f.out, f.size)
	return err
}

// verify compares the file with its digest, in the order of the file.
func (f *fetch) verify(ctx context.Context) error {
	if f.digest == "" {
		return nil // it is that of the only piece
	}
	h := f.digest.Algorithm().Digester()
	for i, p := range f.list {
		select {
		case <-f.done[i]:
		case <-ctx.Done():
			return ctx.Err()
		}
		if _, err := io.Copy(h.Hash(), ctxReads{ctx, io.NewSectionReader(f.out, p.off, p.Size)}); err != nil {
			return err
		}
	}
	if got := h.Digest(); got != f.digest {
		return failure(StageWrite, SideSource, fmt.Errorf("the file of the segments: %w", &image.DigestError{
			Descriptor: image.Descriptor{Digest: f.digest, Size: f.size}, Got: got, GotSize: f.size,
		}))
	}
	return nil
}

// place puts all pieces in place: first what is at hand, then what has to be fetched.
func (f *fetch) place(ctx context.Context, reuse []string) error {
	lacking, err := f.each(ctx, f.all(), f.recallPiece)
	if err != nil {
		return err
	}
	if lacking, err = f.placeEarlier(ctx, lacking, reuse); err != nil || len(lacking) == 0 {
		return err
	}
	_, err = f.each(ctx, lacking, f.fetchPiece)
	return err
}

func (f *fetch) all() []int {
	var all []int
	for i := range f.list {
		all = append(all, i)
	}
	return all
}

// each tries to put pieces in place, several at a time, and returns those that are not there.
func (f *fetch) each(ctx context.Context, list []int, try func(ctx context.Context, i int) (Origin, error)) ([]int, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxReaders)
	from := make([]Origin, len(list))
	for n, i := range list {
		g.Go(func() (err error) {
			begin := time.Now()
			if from[n], err = try(ctx, i); err != nil || from[n] == "" {
				return err
			}
			r := &f.result.Layers[i]
			r.Index, r.SegmentFrom, r.Elapsed = from[n], from[n], time.Since(begin)
			f.task.Add(r.Size)
			close(f.done[i])
			return nil
		})
	}
	err := g.Wait()
	var lacking []int
	for n, i := range list {
		if from[n] == "" {
			lacking = append(lacking, i)
		}
	}
	return lacking, err
}

// recallPiece takes a piece from the cache.
func (f *fetch) recallPiece(ctx context.Context, i int) (Origin, error) {
	p := f.list[i]
	if f.recall.cache == nil {
		return "", nil
	}
	e, err := f.recall.cache.Get(ctx, cache.KindBlob, blobKey(p.Digest))
	if err != nil {
		return "", ctx.Err()
	}
	defer e.Close()
	if e.Size() != p.Size || e.Verify(ctx) != nil {
		return "", ctx.Err()
	}
	if cloneRange(f.out, p.off, e.File(), 0, p.Size) {
		return OriginCache, nil
	}
	err = copyRange(ctx, f.out, p.off, e.File(), 0, p.Size, func(int64) {})
	if err == nil {
		return OriginCache, nil
	}
	if ctx.Err() != nil || isFull(err) {
		return "", err
	}
	f.opts.Logger.Warn("going on without a blob of the cache", "digest", p.Digest, "err", err)
	return "", nil
}

// placeEarlier takes pieces from earlier files.
func (f *fetch) placeEarlier(ctx context.Context, lacking []int, reuse []string) ([]int, error) {
	for _, path := range reuse {
		if len(lacking) == 0 {
			return nil, nil
		}
		list := make([]piece, 0, len(lacking))
		for _, i := range lacking {
			list = append(list, f.list[i])
		}
		e, err := openEarlier(ctx, path, list)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			f.opts.Logger.Warn("image cannot be reused", "path", path, "err", err)
			continue
		}
		lacking, err = f.each(ctx, lacking, func(ctx context.Context, i int) (Origin, error) {
			taken, err := e.take(ctx, f.list[i], f.out)
			if !taken {
				return "", err
			}
			return OriginReuse, nil
		})
		_ = e.file.Close()
		if err != nil {
			return nil, err
		}
	}
	return lacking, nil
}

// fetchPiece reads a piece from its source.
func (f *fetch) fetchPiece(ctx context.Context, i int) (Origin, error) {
	p := f.list[i]
	task := f.meter.Begin(string(StageLayer), short(p.Digest.String()), p.Size)
	defer task.End()
	blob, err := f.open(ctx, p.Descriptor)
	if err != nil {
		return "", layerFailure(StageLayer, SideSource, p.Digest.String(), err)
	}
	defer blob.Close()
	w := &failing{w: io.NewOffsetWriter(f.out, p.off)}
	if _, err := io.Copy(w, task.Reader(ctxReads{ctx, blob})); err != nil {
		side := SideSource
		if w.failed {
			side = SideDestination
		}
		return "", layerFailure(StageLayer, side, p.Digest.String(), err)
	}
	return OriginSource, f.keep(ctx, p)
}

// failing tells an error of writing from one of reading.
type failing struct {
	w      io.Writer
	failed bool
}

func (f *failing) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	f.failed = err != nil
	return n, err
}

// keep puts a piece into the cache, unless the image that it is of has done that already.
func (f *fetch) keep(ctx context.Context, p piece) error {
	c := f.recall.cache
	if c == nil {
		return nil
	}
	key := blobKey(p.Digest)
	if e, err := c.Get(ctx, cache.KindBlob, key); err == nil {
		return e.Close()
	}
	w, err := c.Create(cache.KindBlob, key)
	if err != nil {
		f.opts.Logger.Warn("not all is in the cache", "err", err)
		return ctx.Err()
	}
	defer w.Abort()
	var e *cache.Entry
	if !cloneRange(w.File(), 0, f.out, p.off, p.Size) {
		err = copyRange(ctx, w.File(), 0, f.out, p.off, p.Size, func(int64) {})
	}
	if err == nil {
		e, err = w.Commit(ctx, p.Size, nil)
	}
	if err != nil {
		f.opts.Logger.Warn("not all is in the cache", "err", err)
		return ctx.Err()
	}
	return e.Close()
}

// blobKey is the name of a blob in the cache.
func blobKey(d digest.Digest) string { return strings.ReplaceAll(d.String(), ":", "-") }
