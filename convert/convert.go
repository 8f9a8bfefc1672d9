package convert

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"time"

	"hpcimg/convert/internal/index"
	"hpcimg/convert/internal/layer"
	"hpcimg/convert/internal/merge"
	"hpcimg/image/cache"
	"hpcimg/internal/atomicfile"
	"hpcimg/internal/meter"
	"hpcimg/squashfs"
)

// dataStart is where the first segment stands in a squashfs: behind the superblock, aligned as all segments are.
const (
	dataStart = dataAlign
	dataAlign = 4096
)

// Convert makes the image dst from src. dst appears when it is complete, in one step, with mode 0755 for a SIF and 0644 for other
// files; if anything goes wrong nothing is left and what was there before is untouched. To an OCI layout that exists, the image
// is added. Errors are of type *Error.
func Convert(ctx context.Context, src *Source, dst string, opts *Options) (*Result, error) {
	begin := time.Now()
	o, err := opts.withDefaults(dst)
	if err != nil {
		return nil, failure(StageOpen, "", err)
	}
	result, err := convertOnce(ctx, src, dst, o)
	if trouble, ok := errors.AsType[*cacheError](err); ok && o.Cache != nil && src.again() && ctx.Err() == nil {
		o.Logger.Warn("going on without the cache", "err", trouble.err)
		o.Cache = nil
		result, err = convertOnce(ctx, src, dst, o)
	}
	if isFull(err) && !errors.Is(err, ErrSpace) {
		err = fullError(err, filepath.Dir(dst))
	}
	if err != nil {
		return nil, failure("", "", err)
	}
	result.Path = dst
	result.Elapsed = time.Since(begin)
	return result, nil
}

func convertOnce(ctx context.Context, src *Source, dst string, o Options) (*Result, error) {
	src, fetched, err := resolve(ctx, src, o)
	if err != nil {
		return nil, err
	}
	defer fetched.Close()
	if src.pieces != nil {
		return fetchTo(ctx, src, dst, o)
	}
	switch o.Form {
	case FormSIF, FormSquashfs:
		return publish(ctx, src, dst, o, func(j *job, _ *atomicfile.File) error { return j.run(ctx) })
	case FormOCISIF:
		return publish(ctx, src, dst, o, func(j *job, _ *atomicfile.File) error { return j.ociSIF(ctx) })
	}
	return exportTo(ctx, src, dst, o)
}

// publish has write fill a file, which then gets its name.
func publish(ctx context.Context, src *Source, dst string, o Options, write func(*job, *atomicfile.File) error) (*Result, error) {
	mode := fs.FileMode(0o644)
	if o.Form == FormSIF || o.Form == FormOCISIF {
		mode = 0o755
	}
	out, err := atomicfile.Create(dst, &atomicfile.Options{Mode: mode, NoReplace: !o.Force})
	if err != nil {
		return nil, failure(StageOpen, SideDestination, err)
	}
	defer out.Abort()
	j := newJob(src, out, o)
	defer j.close()
	if err := write(j, out); err != nil {
		return nil, failure(StageWrite, SideDestination, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, failure(StagePublish, "", err)
	}
	task := j.meter.Begin(string(StagePublish), "", 0)
	if j.result.Size, err = out.Seek(0, io.SeekEnd); err != nil {
		return nil, failure(StagePublish, SideDestination, err)
	}
	if err := out.Commit(); err != nil {
		return nil, failure(StagePublish, SideDestination, err)
	}
	task.End()
	return j.end(), nil
}

// end waits for the cache and returns the result.
func (j *job) end() *Result {
	if err := j.publisher.wait(); err != nil {
		j.opts.Logger.Warn("not all is in the cache", "err", err)
	}
	j.result.Warnings = j.warnings.list()
	return &j.result
}

// fullError says of an error which directory is full.
func fullError(err error, dir string) error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return &Error{Side: SideDestination, Err: &SpaceError{Dir: dir, Err: err}}
	}
	e.Err = &SpaceError{Dir: dir, Err: e.Err}
	return e
}

// job is one conversion.
type job struct {
	opts      Options
	src       *Source
	out       *atomicfile.File // nil if there is not one file
	pool      *squashfs.Pool
	meter     *meter.Meter
	recall    *recall
	publisher publisher
	release   func() // of the lease, if we have it
	warnings  warnings
	budget    layer.Budget
	modTime   uint32 // for what has no time of its own

	sif    *sifOutput // nil for a plain squashfs
	ready  bool       // base is known
	base   int64      // of the squashfs in out
	layers []*layerState
	tree   *merge.Tree
	shelf  shelf
	result Result

	copying *meter.Task // the layers of an OCI image, to where they stay
	garbage func()      // stops its collection
}

func newJob(src *Source, out *atomicfile.File, o Options) *job {
	modTime := o.Time
	if modTime.IsZero() {
		modTime = src.created()
	}
	j := &job{
		opts: o, src: src, out: out,
		recall:  newRecall(&o),
		pool:    squashfs.NewPool(o.Workers),
		meter:   meter.Start(progress(o.Progress)),
		modTime: uint32(min(max(modTime.Unix(), 0), math.MaxUint32)),
	}
	j.budget.Entries, j.budget.Bytes, j.budget.Text = o.Limits.Entries, o.Limits.Bytes, o.Limits.Text
	for i, l := range src.layers {
		s := &layerState{layerSource: l, number: int32(i), result: l.describe()}
		s.name, s.diffID = s.result.Digest.String(), s.result.DiffID.String()
		j.layers = append(j.layers, s)
	}
	j.tree = merge.NewTree(j.modTime)
	j.result.Form = o.Form
	j.garbage = collectGarbage()
	return j
}

func (j *job) close() {
	_ = j.publisher.wait()
	for _, l := range j.layers {
		l.segment.discard()
	}
	if j.release != nil {
		j.release()
	}
	j.recall.close()
	_ = j.shelf.Close()
	j.pool.Close()
	j.meter.Stop()
	j.garbage()
}

// run makes a squashfs or SIF.
func (j *job) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if j.opts.Form != FormSIF {
		j.ready = true
	} else if arch := j.knownArch(); arch != "" {
		if err := j.beginSIF(arch); err != nil {
			return failure(StageOpen, "", err)
		}
	}
	if err := j.know(ctx); err != nil {
		return err
	}
	if err := j.settle(ctx); err != nil {
		return err
	}
	return j.assemble(ctx)
}

// know finds out what the image consists of.
func (j *job) know(ctx context.Context) error {
	for _, step := range []func(context.Context) error{j.await, j.recallLayers, j.reserve, j.readLayers, j.shelve, j.merge} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := j.checkArch(); err != nil {
		return failure(StageMerge, SideSource, err)
	}
	if j.sif != nil {
		if err := j.sif.addRoot(j.tree, j.modTime); err != nil {
			return failure(StageMerge, SideSource, err)
		}
	}
	return nil
}

// await lets one of several processes that want to read the same layers do it. The others find them in the cache.
func (j *job) await(ctx context.Context) error {
	c := j.recall.cache
	if c == nil {
		return nil
	}
	h := sha256.New()
	for _, l := range j.layers {
		if l.diffID == "" {
			return nil
		}
		fmt.Fprintln(h, j.packKey(l))
	}
	ready := func() bool {
		for _, l := range j.layers {
			indexes, _ := c.Keys(ctx, cache.KindIndex, index.LayerKey(l.diffID))
			segments, _ := c.Keys(ctx, cache.KindSegment, j.packKey(l))
			if len(indexes) == 0 || len(segments) == 0 {
				return false
			}
		}
		return true
	}
	release, err := c.Once(ctx, "convert-"+hex.EncodeToString(h.Sum(nil)), ready)
	if ctx.Err() != nil {
		return failure(StageOpen, "", ctx.Err())
	}
	if err != nil {
		j.opts.Logger.Warn("no lease", "err", err)
	}
	j.release = release
	return nil
}

// merge finds out what the image consists of.
func (j *job) merge(ctx context.Context) error {
	task := j.meter.Begin(string(StageMerge), "", int64(len(j.layers)))
	defer task.End()
	for _, l := range j.layers {
		for _, n := range l.known.Notes {
			j.warnings.add(n.Code, n.Path, n.Detail, n.Count)
		}
		if err := j.tree.Apply(ctx, l.number, l.known.Entries); err != nil {
			return layerFailure(StageMerge, SideSource, l.name, err)
		}
		task.Add(1)
	}
	return nil
}

// knownArch returns the architecture if it is known beforehand.
func (j *job) knownArch() string {
	if j.opts.SIF.Arch != "" {
		return j.opts.SIF.Arch
	}
	return j.src.arch
}

// beginSIF writes what stands before the partition.
func (j *job) beginSIF(arch string) error {
	s, err := newSIFOutput(j.src, &j.opts, arch)
	if err != nil {
		return err
	}
	if j.base, err = s.begin(j.out); err != nil {
		return failure(StageOpen, SideDestination, err)
	}
	j.sif, j.ready = s, true
	j.result.Arch = arch
	return nil
}

// squashfsAt is the part of out where the squashfs goes.
func (j *job) squashfsAt() *io.OffsetWriter { return io.NewOffsetWriter(j.out, j.base) }

// checkArch compares the architecture with that of the programs.
func (j *job) checkArch() error {
	found := j.programArch()
	if j.opts.Form != FormSIF {
		j.result.Arch = found
		if found == "" {
			j.result.Arch = j.src.arch
		}
		return nil
	}
	if !j.ready {
		if found == "" {
			return fmt.Errorf("%w: no program in the source tells which it is for; set Options.SIF.Arch", ErrArch)
		}
		return j.beginSIF(found)
	}
	if found == "" || found == j.result.Arch {
		return nil
	}
	if j.opts.SIF.StrictArch {
		return fmt.Errorf("%w: the image says %s, but its programs are for %s", ErrArch, j.result.Arch, found)
	}
	j.warnings.Note(layer.Code(WarnArch), "", fmt.Sprintf("programs are for %s, not %s", found, j.result.Arch))
	return nil
}
