package convert

import (
	"context"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"hpcimg/convert/internal/index"
	"hpcimg/image/cache"
)

// Forecast says what a conversion will do, as far as that can be known without reading a layer.
type Forecast struct {
	Form   Form            `json:"form"`
	Arch   string          `json:"arch,omitempty"`
	Layers []LayerForecast `json:"layers"` // bottom first

	Download int64 `json:"download"` // bytes of layers to be read from the source
	Compress int64 `json:"compress"` // bytes of compressed files to be made
	Copy     int64 `json:"copy"`     // bytes of compressed files that are there
	Size     int64 `json:"size"`     // bytes of the result; of a directory or tar, those of the files in it, once the layers are known
	// Exact is false if layers have to be read before more than a guess can be made: Compress and Size are then what the
	// layers take in the source.
	Exact bool `json:"exact"`

	Space []Space `json:"space"`
}

// LayerForecast says where a layer will come from.
type LayerForecast struct {
	Digest digest.Digest `json:"digest,omitempty"`
	DiffID digest.Digest `json:"diffID,omitempty"`
	Size   int64         `json:"size,omitempty"` // as stored in the source
	Index  Origin        `json:"indexFrom"`
	// SegmentFrom is "" if it depends on layers that have not been read yet.
	SegmentFrom Origin `json:"segmentFrom,omitempty"`
	Segment     int64  `json:"segment,omitempty"` // bytes in the result
}

// Space is what a conversion takes in a directory, and what there is.
type Space struct {
	Dir  string `json:"dir"`
	Need int64  `json:"need"`
	Free int64  `json:"free"` // for this user; -1 if the system does not say
}

// Plan says what Convert would do with the same arguments. It reads no layer and writes nothing.
func Plan(ctx context.Context, src *Source, dst string, opts *Options) (*Forecast, error) {
	o, err := opts.withDefaults(dst)
	if err != nil {
		return nil, failure(StageOpen, "", err)
	}
	o.Progress = nil
	if src.err != nil {
		return nil, failure(StageOpen, SideSource, src.err)
	}
	if p := src.pieces; p != nil && (p.wanted(&o) || len(src.layers) == 0) {
		return p.plan(ctx, dst, o), nil
	}
	j := newJob(src, nil, o)
	defer j.close()
	f := &Forecast{Form: o.Form, Arch: j.knownArch()}
	if err := j.recallLayers(ctx); err != nil {
		return nil, failure("", "", err)
	}
	known, err := j.foresee(ctx)
	if err != nil {
		return nil, failure("", "", err)
	}
	f.Exact = known
	for _, l := range j.layers {
		f.add(ctx, j, l)
	}
	if known && (o.Form == FormTar || o.Form == FormDir) {
		f.Size = j.contents()
	}
	f.Space = j.space(dst, f.Size, f.Compress)
	return f, nil
}

// foresee finds out which files can be seen, if all layers are known.
func (j *job) foresee(ctx context.Context) (bool, error) {
	for _, l := range j.layers {
		if l.known == nil {
			return false, nil
		}
	}
	if arch := j.knownArch(); arch != "" && j.opts.Form == FormSIF {
		var err error
		if j.sif, err = newSIFOutput(j.src, &j.opts, arch); err != nil {
			return false, err
		}
	}
	if err := j.merge(ctx); err != nil {
		return false, err
	}
	if j.sif != nil {
		if err := j.sif.addRoot(j.tree, j.modTime); err != nil {
			return false, err
		}
	}
	j.findVisible()
	return true, nil
}

func (f *Forecast) add(ctx context.Context, j *job, l *layerState) {
	p := LayerForecast{Digest: l.result.Digest, DiffID: l.result.DiffID, Size: l.result.Size, Index: OriginSource}
	if l.known != nil {
		p.Index = l.result.Index
	}
	if l.visible != nil {
		if p.SegmentFrom, p.Segment = j.recall.find(ctx, index.SegmentKey(j.packKey(l), l.visible)); p.SegmentFrom == "" {
			p.SegmentFrom = OriginSource
		}
	}
	switch p.SegmentFrom {
	case OriginSource, "":
		p.Segment = p.Size
		f.Compress += p.Size
		if p.SegmentFrom == OriginSource || p.Index == OriginSource {
			f.Download += p.Size
		}
	default:
		f.Copy += p.Segment
	}
	f.Exact = f.Exact && (p.SegmentFrom == OriginCache || p.SegmentFrom == OriginReuse)
	f.Size += p.Segment
	f.Layers = append(f.Layers, p)
}

// find says where a segment is and how large, without a look into it.
func (r *recall) find(ctx context.Context, key string) (Origin, int64) {
	if r.cache != nil {
		if e, err := r.cache.Get(ctx, cache.KindSegment, key); err == nil {
			defer e.Close()
			return OriginCache, e.Size()
		}
	}
	for _, h := range r.hints {
		if size, ok := h.segmentSize(key); ok {
			return OriginReuse, size
		}
	}
	return "", 0
}

// space says what is needed where.
func (j *job) space(dst string, size, fresh int64) []Space {
	all := []Space{{Dir: filepath.Dir(dst), Need: size}}
	add := func(dir string, need int64) {
		if need > 0 {
			all = append(all, Space{Dir: dir, Need: need})
		}
	}
	inPlace := j.opts.Form == FormSIF || j.opts.Form == FormSquashfs || j.opts.Form == FormOCISIF
	switch {
	case j.recall.cache != nil:
		add(j.recall.cache.Dir(), fresh)
	case !inPlace:
		add(j.opts.TempDir, fresh)
	case len(j.layers) > 1:
		add(j.opts.TempDir, fresh-min(fresh, j.layers[0].result.Size))
	}
	switch j.opts.Form {
	case FormOCI, FormOCIArchive, FormDockerArchive:
		add(j.opts.TempDir, size) // where layers are made
	}
	return mergeSpace(all)
}

// mergeSpace adds up what is needed in one file system.
func mergeSpace(all []Space) (merged []Space) {
	for _, s := range all {
		i := slices.IndexFunc(merged, func(m Space) bool { return sameFileSystem(m.Dir, s.Dir) })
		if i >= 0 {
			merged[i].Need += s.Need
			continue
		}
		s.Free = freeSpace(s.Dir)
		merged = append(merged, s)
	}
	return merged
}

// reserve refuses to begin what cannot end well. Before the layers are read nobody knows how much of them is hidden, so only a
// destination that is too small for a quarter of what has to be fetched is refused.
func (j *job) reserve(context.Context) error {
	const certain = 4
	var need int64
	for _, l := range j.layers {
		if l.known == nil {
			need += l.result.Size / certain
		}
	}
	return failure(StageOpen, SideDestination, j.checkSpace(need))
}

// checkSpace compares what is needed beside what has been written with what there is.
func (j *job) checkSpace(need int64) error {
	dir := j.opts.TempDir
	if j.out != nil {
		dir = filepath.Dir(j.out.Path())
	}
	if free := freeSpace(dir); free >= 0 && free < need {
		return &SpaceError{Dir: dir, Need: need, Free: free, Err: errFull}
	}
	return nil
}
