package convert

import (
	"context"
	"fmt"
	"io"

	"hpcimg/convert/internal/export"
	"hpcimg/convert/internal/layer"
	"hpcimg/convert/internal/merge"
	"hpcimg/image"
	"hpcimg/internal/atomicfile"
	"hpcimg/squashfs"
)

// exportTo makes a form that is no squashfs.
func exportTo(ctx context.Context, src *Source, dst string, o Options) (*Result, error) {
	switch o.Form {
	case FormTar:
		return publish(ctx, src, dst, o, func(j *job, out *atomicfile.File) error {
			return j.view(ctx, func(r *squashfs.Reader) error {
				if err := j.checkSpace(j.contents()); err != nil { // which a tar stream has in full, holes and all
					return err
				}
				return j.tar(ctx, out, r)
			})
		})
	case FormDir:
		return exportDir(ctx, src, dst, o)
	case FormOCI:
		return exportLayout(ctx, src, dst, o)
	case FormOCIArchive, FormDockerArchive:
		return publish(ctx, src, dst, o, func(j *job, out *atomicfile.File) error {
			img, err := j.image(ctx)
			if err != nil {
				return err
			}
			defer img.Close()
			return j.copyLayers(img, func() error { return writeArchive(ctx, out, img.Image, o) })
		})
	}
	return nil, failure(StageOpen, "", fmt.Errorf("%w: %q", ErrForm, o.Form))
}

// view reads and merges the layers and calls use with the tree.
func (j *job) view(ctx context.Context, use func(*squashfs.Reader) error) error {
	if err := j.know(ctx); err != nil {
		return err
	}
	if err := j.settle(ctx); err != nil {
		return err
	}
	r, err := j.assembleView(ctx)
	if err != nil {
		return err
	}
	if err := use(r); err != nil {
		return err
	}
	j.publishSegments()
	return nil
}

// tar writes the tree as a tar stream.
func (j *job) tar(ctx context.Context, w io.Writer, r *squashfs.Reader) error {
	task := j.meter.Begin(string(StageWrite), "", j.contents())
	defer task.End()
	err := export.Tar(ctx, w, r, &export.TarOptions{
		Workers: j.opts.Workers, Progress: task.Add,
		Skipped: func(path string) { j.warnings.Note(layer.NoteSocket, path, "") },
	})
	return failure(StageWrite, SideDestination, err)
}

// exportDir makes a directory.
func exportDir(ctx context.Context, src *Source, dst string, o Options) (*Result, error) {
	opts := &export.DirOptions{Workers: o.Workers, Replace: o.Force}
	if err := export.CheckDir(dst, opts); err != nil {
		return nil, failure(StageOpen, SideDestination, err)
	}
	j := newJob(src, nil, o)
	defer j.close()
	err := j.view(ctx, func(r *squashfs.Reader) error {
		task := j.meter.Begin(string(StageWrite), "", j.contents())
		defer task.End()
		opts.Progress = task.Add
		done, err := export.Dir(ctx, dst, r, opts)
		if err != nil {
			return err
		}
		for kind, n := range done.SkippedCounts {
			j.warnings.add(layer.Code(WarnRestore), "", fmt.Sprint(kind), int(n))
		}
		if done.Left != "" {
			j.warnings.add(layer.Code(WarnLeft), done.Left, "", 1)
		}
		task.Add(j.contents() - task.Done()) // holes are not written
		j.result.Size = done.Bytes
		return nil
	})
	if err != nil {
		return nil, failure(StageWrite, SideDestination, err)
	}
	return j.end(), nil
}

// contents returns how many bytes the files of the image have, each counted once.
func (j *job) contents() (n int64) {
	_ = j.tree.Walk(func(_ string, i *merge.Inode, first string) error {
		if first == "" && i.Kind == layer.File {
			n += i.Size
		}
		return nil
	})
	return n
}

// exportLayout adds an image to an OCI layout.
func exportLayout(ctx context.Context, src *Source, dst string, o Options) (*Result, error) {
	j := newJob(src, nil, o)
	defer j.close()
	img, err := j.image(ctx)
	if err != nil {
		return nil, failure(StageWrite, SideDestination, err)
	}
	defer img.Close()
	err = j.copyLayers(img, func() error {
		d, err := image.WriteLayout(ctx, dst, img.Image, o.OCI.Tag)
		j.result.Digest = d.Digest
		return err
	})
	if err != nil {
		return nil, failure(StagePublish, SideDestination, err)
	}
	return j.end(), nil
}

// copyLayers calls write, which copies the layers of an image from where they were made, and says how far that is.
func (j *job) copyLayers(img *BuiltImage, write func() error) error {
	var total int64
	for _, l := range img.Layers() {
		total += l.Descriptor.Size
	}
	j.copying = j.meter.Begin(string(StageWrite), "copy", total)
	defer j.copying.End()
	if err := write(); err != nil {
		return err
	}
	j.copying.Add(total - j.copying.Done()) // a layout may have some already
	return nil
}

// writeArchive writes an OCI image as one file.
func writeArchive(ctx context.Context, w io.Writer, img *image.Image, o Options) error {
	if o.Form == FormDockerArchive {
		return image.WriteDockerArchive(ctx, w, img, o.OCI.Tag)
	}
	_, err := image.WriteArchive(ctx, w, img, o.OCI.Tag)
	return err
}
