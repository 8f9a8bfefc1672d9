package convert

import (
	"bytes"
	"context"
	"time"

	"hpcimg/convert/internal/layer"
	"hpcimg/convert/internal/merge"
	"hpcimg/squashfs"
)

// assemble puts the segments in their places, from the bottom layer to the top, and writes the tables behind them.
func (j *job) assemble(ctx context.Context) error {
	b, err := squashfs.NewBuilder(j.opts.builderOptions(j.modTime))
	if err != nil {
		return failure(StageWrite, "", err)
	}
	a := &assembly{job: j, builder: b, end: dataStart}
	for _, step := range []func(context.Context) error{a.placeSegments, a.packRoot, a.addEntries, a.writeTables} {
		if err := step(ctx); err != nil {
			return failure(StageWrite, SideDestination, err)
		}
	}
	return nil
}

// assembly is the making of the squashfs.
type assembly struct {
	*job
	builder *squashfs.Builder
	end     int64             // of what is in place, from base
	packs   []squashfs.PackID // of the layers
	root    squashfs.PackID
	files   map[*merge.Inode]*squashfs.Content // of those from AddRoot
}

func (a *assembly) placeSegments(ctx context.Context) error {
	var total int64
	for _, l := range a.layers {
		total += l.pack.Size
	}
	task := a.meter.Begin(string(StageWrite), "", total)
	defer task.End()
	for _, l := range a.layers {
		if l.at < 0 {
			task.Add(l.pack.Size)
		} else if err := a.spool.copyTo(ctx, a.out.File, a.base+a.end, l.at, l.pack.Size, task.Add); err != nil {
			return err
		}
		if err := a.addPack(l.pack); err != nil {
			return err
		}
		l.result.Segment = l.pack.Size
		a.result.Layers = append(a.result.Layers, l.result)
	}
	return nil
}

func (a *assembly) addPack(p *squashfs.Pack) error {
	id, err := a.builder.AddPack(p, a.end)
	a.packs = append(a.packs, id)
	a.end += p.Size
	return err
}

// packRoot packs the files that no layer has.
func (a *assembly) packRoot(ctx context.Context) error {
	packer, err := squashfs.NewPacker(a.squashfsAt(), a.end, a.opts.packerOptions(a.pool))
	if err != nil {
		return err
	}
	a.files = make(map[*merge.Inode]*squashfs.Content)
	err = a.tree.Walk(func(_ string, i *merge.Inode, _ string) error {
		if i.Kind != layer.File || i.Index >= 0 {
			return nil
		}
		c, err := packer.Add(ctx, bytes.NewReader(i.Data), i.Size)
		a.files[i] = c
		return err
	})
	pack, closeErr := packer.Close()
	if err != nil {
		return err
	}
	if closeErr != nil {
		return closeErr
	}
	a.root = squashfs.PackID(len(a.packs))
	return a.addPack(pack)
}

func (a *assembly) addEntries(ctx context.Context) error {
	err := a.tree.Walk(func(path string, i *merge.Inode, first string) error {
		a.result.Entries++
		if first != "" {
			return a.builder.Add(squashfs.Entry{Path: path, HardLink: first})
		}
		e := squashfs.Entry{
			Path: path, Mode: i.FileMode(), UID: i.UID, GID: i.GID, ModTime: time.Unix(int64(i.ModTime), 0),
			Xattrs: i.Xattrs, Rdev: squashfs.Rdev{Major: i.Major, Minor: i.Minor},
		}
		switch {
		case i.Kind == layer.Symlink:
			e.Target = i.Link
		case i.Kind == layer.File && i.Index >= 0:
			e.Content, e.Pack = a.layers[i.Layer].contents[i.Index], a.packs[i.Layer]
		case i.Kind == layer.File:
			e.Content, e.Pack = a.files[i], a.root
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return a.builder.Add(e)
	})
	// The builder has all that it needs, and is about to need more memory: of a million files, this is half.
	a.tree, a.files = nil, nil
	for _, l := range a.layers {
		l.entries, l.contents, l.elves = nil, nil, nil
	}
	return err
}

// writeTables completes the squashfs and what stands around it, and cuts off what a repacked layer may have left.
func (a *assembly) writeTables(ctx context.Context) error {
	size, err := a.builder.WriteTables(ctx, a.squashfsAt(), a.end)
	if err != nil {
		return err
	}
	a.result.TableBytes = size - a.end
	a.result.Size = a.base + size
	if a.sif != nil {
		if a.result.Size, err = a.sif.end(size); err != nil {
			return err
		}
	}
	return a.out.Truncate(a.result.Size)
}
