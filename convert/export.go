package convert

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hpcimg/convert/internal/export"
	"hpcimg/convert/internal/layer"
	"hpcimg/image"
	"hpcimg/internal/atomicfile"
	"hpcimg/squashfs"
)

// exportTo makes a form that is no squashfs.
func exportTo(ctx context.Context, src *Source, dst string, o Options) (*Result, error) {
	switch o.Form {
	case FormTar:
		return publish(ctx, src, dst, o, func(j *job, out *atomicfile.File) error {
			return j.view(ctx, func(r *squashfs.Reader) error { return j.tar(ctx, out, r) })
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
			if o.Form == FormDockerArchive {
				return writeDockerArchive(ctx, out, img.Image, o.OCI.Tag)
			}
			return writeOCIArchive(ctx, out, img.Image, o)
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
	task := j.meter.Begin(string(StageWrite), "", 0)
	defer task.End()
	err := export.Tar(ctx, w, r, &export.TarOptions{
		Workers: j.opts.Workers, Progress: task.Add,
		Skipped: func(path string) { j.warnings.Note(layer.NoteSocket, path, "") },
	})
	return failure(StageWrite, SideDestination, err)
}

// exportDir makes a directory. It is filled under another name beside its own.
func exportDir(ctx context.Context, src *Source, dst string, o Options) (*Result, error) {
	dst = filepath.Clean(dst)
	if _, err := os.Lstat(dst); err == nil && !o.Force {
		return nil, failure(StageOpen, SideDestination, &fs.PathError{Op: "create", Path: dst, Err: fs.ErrExist})
	}
	temp, err := os.MkdirTemp(filepath.Dir(dst), "."+filepath.Base(dst)+".part-*")
	if err != nil {
		return nil, failure(StageOpen, SideDestination, err)
	}
	defer removeTree(temp)
	j := newJob(src, nil, o)
	defer j.close()
	err = j.view(ctx, func(r *squashfs.Reader) error {
		task := j.meter.Begin(string(StageWrite), "", 0)
		defer task.End()
		done, err := squashfs.ExtractTo(ctx, r, temp, &squashfs.ExtractOptions{Workers: o.Workers})
		if err != nil {
			return failure(StageWrite, SideDestination, err)
		}
		for kind, n := range done.SkippedCounts {
			j.warnings.add(layer.Code(WarnRestore), "", fmt.Sprint(kind), int(n))
		}
		j.result.Size = done.Bytes
		return nil
	})
	if err != nil {
		return nil, failure(StageWrite, SideDestination, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, failure(StagePublish, "", err)
	}
	if err := replaceDir(temp, dst, o.Force); err != nil {
		return nil, failure(StagePublish, SideDestination, err)
	}
	return j.end(), nil
}

// replaceDir gives the directory temp the name dst. What has the name goes first under another one, from which it
// comes back if that fails.
func replaceDir(temp, dst string, force bool) error {
	old := ""
	if _, err := os.Lstat(dst); err == nil {
		if !force {
			return &fs.PathError{Op: "rename", Path: dst, Err: fs.ErrExist}
		}
		old = temp + ".old"
		if err := os.Rename(dst, old); err != nil {
			return err
		}
	}
	if err := os.Rename(temp, dst); err != nil {
		if old != "" {
			err = errors.Join(err, os.Rename(old, dst))
		}
		return err
	}
	if old != "" {
		removeTree(old)
	}
	return nil
}

// removeTree removes a tree whose directories need not let their owner in.
func removeTree(path string) {
	if os.RemoveAll(path) == nil {
		return
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return
	}
	unlock(root, ".")
	_ = root.Close()
	_ = os.RemoveAll(path)
}

func unlock(root *os.Root, dir string) {
	_ = root.Chmod(dir, 0o700)
	entries, err := fs.ReadDir(root.FS(), filepath.ToSlash(dir))
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			unlock(root, filepath.Join(dir, e.Name()))
		}
	}
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
	d, err := image.WriteLayout(ctx, dst, img.Image, o.OCI.Tag)
	if err != nil {
		return nil, failure(StagePublish, SideDestination, err)
	}
	j.result.Digest = d.Digest
	return j.end(), nil
}

// archiveTime is the time of files in archives: that of the image, so that equal images make equal archives.
func archiveTime(img *image.Image) time.Time {
	if created := img.Config().Created; created != nil {
		return time.Unix(created.Unix(), 0)
	}
	return time.Unix(0, 0)
}

// writeOCIArchive writes a tar of the OCI layout that has the image alone.
func writeOCIArchive(ctx context.Context, w io.Writer, img *image.Image, o Options) error {
	dir, err := os.MkdirTemp(o.TempDir, ".hpcimg-layout-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if _, err := image.WriteLayout(ctx, dir, img, o.OCI.Tag); err != nil {
		return err
	}
	archive := tar.NewWriter(w)
	when := archiveTime(img)
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir || strings.HasPrefix(e.Name(), ".") {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if e.IsDir() {
			return archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: filepath.ToSlash(name) + "/", Mode: 0o755, ModTime: when})
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		return addToArchive(ctx, archive, filepath.ToSlash(name), info.Size(), when, f)
	})
	if err != nil {
		return err
	}
	return archive.Close()
}

func addToArchive(ctx context.Context, archive *tar.Writer, name string, size int64, when time.Time, r io.Reader) error {
	err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: when})
	if err != nil {
		return err
	}
	_, err = io.Copy(archive, ctxCopier{ctx, r})
	return err
}

// ctxCopier ends a copy between two reads.
type ctxCopier struct {
	ctx context.Context //nolint:containedctx // io.Reader has no other place for it
	r   io.Reader
}

func (c ctxCopier) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// writeDockerArchive writes what docker load and podman load take.
func writeDockerArchive(ctx context.Context, w io.Writer, img *image.Image, ref string) error {
	archive := tar.NewWriter(w)
	when := archiveTime(img)
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	e := entry{Config: img.Manifest().Config.Digest.Encoded() + ".json"}
	if ref != "" {
		e.RepoTags = []string{ref}
	}
	config := img.RawConfig()
	if err := addToArchive(ctx, archive, e.Config, int64(len(config)), when, strings.NewReader(string(config))); err != nil {
		return err
	}
	for i, l := range img.Layers() {
		name := strconv.Itoa(i) + "-" + l.DiffID.Encoded()[:12] + ".tar"
		e.Layers = append(e.Layers, name)
		blob, err := l.Open(ctx)
		if err != nil {
			return err
		}
		err = addToArchive(ctx, archive, name, l.Descriptor.Size, when, blob)
		if err := errors.Join(err, blob.Close()); err != nil {
			return err
		}
	}
	manifest, err := json.Marshal([]entry{e})
	if err != nil {
		return err
	}
	if err := addToArchive(ctx, archive, "manifest.json", int64(len(manifest)), when, strings.NewReader(string(manifest))); err != nil {
		return err
	}
	return archive.Close()
}
