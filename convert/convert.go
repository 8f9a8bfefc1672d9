package convert

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"math"
	"time"

	"hpcimg/convert/internal/layer"
	"hpcimg/convert/internal/merge"
	"hpcimg/internal/atomicfile"
	"hpcimg/internal/meter"
	"hpcimg/squashfs"
)

// dataStart is where the first segment stands in a squashfs: behind the superblock, aligned as all segments are.
const dataStart = 4096

// Convert makes the image dst from src. dst appears when it is complete, in one step, with mode 0755 for a SIF and 0644 for a
// squashfs; if anything goes wrong nothing is left and what was there before is untouched. Errors are of type *Error.
func Convert(ctx context.Context, src *Source, dst string, opts *Options) (*Result, error) {
	begin := time.Now()
	o, err := opts.withDefaults(dst)
	if err != nil {
		return nil, failure(StageOpen, "", err)
	}
	mode := fs.FileMode(0o644)
	if o.Form == FormSIF {
		mode = 0o755
	}
	out, err := atomicfile.Create(dst, &atomicfile.Options{Mode: mode, NoReplace: !o.Force})
	if err != nil {
		return nil, failure(StageOpen, SideDestination, err)
	}
	defer out.Abort()
	j := newJob(src, out, o)
	defer j.close()
	if err := j.run(ctx); err != nil {
		return nil, failure("", "", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, failure(StagePublish, "", err)
	}
	task := j.meter.Begin(string(StagePublish), "", 0)
	if err := out.Commit(); err != nil {
		return nil, failure(StagePublish, SideDestination, err)
	}
	task.End()
	j.result.Path = dst
	j.result.Warnings = j.warnings.list()
	j.result.Elapsed = time.Since(begin)
	return &j.result, nil
}

// job is one conversion.
type job struct {
	opts     Options
	src      *Source
	out      *atomicfile.File
	pool     *squashfs.Pool
	meter    *meter.Meter
	spool    *spool
	warnings warnings
	budget   layer.Budget
	modTime  uint32 // for what has no time of its own

	sif    *sifOutput // nil for a plain squashfs
	ready  bool       // base is known
	base   int64      // of the squashfs in out
	layers []*layerState
	tree   *merge.Tree
	result Result
}

// layerState is a layer that has been read.
type layerState struct {
	layerSource
	number   int32
	name     string
	entries  *layer.List
	contents []*squashfs.Content // of the entries that are packed
	elves    map[int32]string    // architectures of programs
	pack     *squashfs.Pack
	at       int64 // of the segment in the spool; -1 if it stands in its place in the output
	result   LayerResult
}

func newJob(src *Source, out *atomicfile.File, o Options) *job {
	modTime := o.Time
	if modTime.IsZero() {
		modTime = src.created()
	}
	j := &job{
		opts: o, src: src, out: out,
		pool:    squashfs.NewPool(o.Workers),
		meter:   meter.Start(progress(o.Progress)),
		spool:   &spool{dir: o.TempDir},
		budget:  layer.Budget{Entries: o.Limits.Entries, Bytes: o.Limits.Bytes},
		modTime: uint32(min(max(modTime.Unix(), 0), math.MaxUint32)),
	}
	for i, l := range src.layers {
		s := &layerState{layerSource: l, number: int32(i), result: l.describe()}
		s.name = s.result.Digest.String()
		j.layers = append(j.layers, s)
	}
	j.tree = merge.NewTree(j.modTime)
	j.result.Form = o.Form
	return j
}

func (j *job) close() {
	j.spool.close()
	j.pool.Close()
	j.meter.Stop()
}

func (j *job) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if j.opts.Form == FormSquashfs {
		j.ready = true
	} else if arch := j.knownArch(); arch != "" {
		if err := j.beginSIF(arch); err != nil {
			return failure(StageOpen, "", err)
		}
	}
	if err := j.readLayers(ctx); err != nil {
		return err
	}
	if err := j.merge(ctx); err != nil {
		return err
	}
	if err := j.checkArch(); err != nil {
		return failure(StageMerge, SideSource, err)
	}
	if j.sif != nil {
		if err := j.sif.addRoot(j.tree, j.modTime); err != nil {
			return failure(StageMerge, SideSource, err)
		}
	}
	if err := j.reconcile(ctx); err != nil {
		return err
	}
	return j.assemble(ctx)
}

// readLayers reads all layers, from the top, so that what a layer hides is known when those below it are read.
func (j *job) readLayers(ctx context.Context) error {
	var cover merge.Cover
	again := j.src.again()
	if again && j.sif != nil {
		cover.Add(j.sif.cover())
	}
	for i := len(j.layers) - 1; i >= 0; i-- {
		l := j.layers[i]
		wanted := func(_ int32, path string) bool { return !cover.Hides(path) }
		if err := j.readLayer(ctx, l, wanted); err != nil {
			return err
		}
		if again {
			// What has been read once cannot be had again: keep all of it.
			cover.Add(l.entries)
		}
		j.opts.Logger.Debug("layer read", "digest", l.name, "entries", l.entries.Len(), "segment", l.pack.Size)
	}
	return nil
}

// merge finds out what the image consists of.
func (j *job) merge(ctx context.Context) error {
	task := j.meter.Begin(string(StageMerge), "", int64(len(j.layers)))
	defer task.End()
	for _, l := range j.layers {
		if err := j.tree.Apply(ctx, l.number, l.entries); err != nil {
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
	if j.opts.Form == FormSquashfs {
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
