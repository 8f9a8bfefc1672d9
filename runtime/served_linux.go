package runtime

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
	"hpcimg/mount"
	"hpcimg/sif"
	"hpcimg/squashfs"
)

// rootName is the directory of the image itself, if that is served as well.
const rootName = "root"

// addExtra opens an image in a file: squashfs, or the primary partition of a SIF. One that overlays are not laid over but made of may
// say to them what their layers do.
func (c *compiler) addExtra(name string, overlaid bool) (*extra, error) {
	if why := c.obstacle(BackendFUSE); why != "" {
		return nil, &fs.PathError{Op: "serve", Path: name, Err: fmt.Errorf("an image that is laid over another or bound is served through FUSE: %s: %w", why, errors.ErrUnsupported)}
	}
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may be a pipe that nobody writes to
	if err != nil {
		return nil, err
	}
	x := &extra{name: fmt.Sprintf("image%d", len(c.plan.extras)), path: name, file: f}
	if err = x.open(&mount.TreeOptions{Overlaid: overlaid}); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	c.plan.extras = append(c.plan.extras, x)
	return x, nil
}

func (x *extra) open(o *mount.TreeOptions) error {
	info, err := x.file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	x.identity = identityOf(info)
	offset, size := int64(0), info.Size()
	switch container, err := sif.NewFile(x.file, size); {
	case err == nil:
		part, err := container.Primary()
		if err != nil {
			return err
		}
		offset, size = part.Offset, part.Size
	case !errors.Is(err, sif.ErrFormat):
		return err
	}
	x.offset, x.size = offset, size
	if x.reader, err = squashfs.NewReader(io.NewSectionReader(x.file, offset, size), size, nil); err == nil {
		x.tree = mount.NewTree(x.reader, o)
	}
	return err
}

// served says whether this process serves anything.
func (p *Plan) served() bool { return p.backend == BackendFUSE || len(p.extras) > 0 }

// join is the tree of the image, which is nil if that is not served, with the extra ones.
func (p *Plan) join(tree mount.Tree) (mount.Tree, error) {
	if len(p.extras) == 0 {
		return tree, nil
	}
	var branches []mount.Branch
	if tree != nil {
		branches = append(branches, mount.Branch{Name: rootName, Tree: tree})
	}
	for _, x := range p.extras {
		branches = append(branches, mount.Branch{Name: x.name, Tree: x.tree})
	}
	return mount.Join(branches...)
}

// servedDir is where all is mounted that this process serves, if that is more than the image.
func (e *emitter) servedDir() string { return e.stage + "/served" }

// serveExtras mounts it. Layers of an overlay are taken from there before anything covers it: overlays of overlays are slower, and
// allowed once.
func (e *emitter) serveExtras() {
	if len(e.plan.extras) == 0 {
		return
	}
	e.add(fork.Mkdir(fork.CWD, e.servedDir(), 0o755))
	e.fuse("fuse", e.servedDir())
	if e.spec.Overlay.empty() {
		e.cover(e.servedDir())
	}
}

func (e *emitter) bindsImages() bool {
	return slices.ContainsFunc(e.items, func(it *item) bool { return it.kind == itemImage })
}

// bindImage places a directory, or a file, of an image.
func (c *compiler) bindImage(b Bind, source string) error {
	fail := func(err error) error { return &BindError{Source: source, Target: b.target(), Err: err} }
	x, err := c.addExtra(source, true)
	if err != nil {
		return fail(err)
	}
	inside := layout{}
	inside.add(&layer{at: "/", tree: newSquashImage(c.ctx, x.reader)})
	found, kind, missing, err := inside.resolve(b.ImageDir)
	if err == nil && len(missing) > 0 {
		err = &fs.PathError{Op: "open", Path: path.Join(append([]string{found}, missing...)...), Err: fs.ErrNotExist}
	}
	if err != nil {
		return fail(fmt.Errorf("in the image: %w", err))
	}
	it := &item{kind: itemImage, image: x, target: path.Clean(b.target()), dir: kind == nodeDir, readOnly: true, inside: path.Clean("./" + found)}
	err = c.place(it)
	if e, ok := errors.AsType[*BindError](err); ok {
		e.Source = source
	}
	return err
}

// openInside opens what is bound of an image. No symbolic link of the image is followed by now, nor a way out of it.
func (e *emitter) openInside(it *item) {
	e.add(
		fork.Open(fork.CWD, e.servedDir()+"/"+it.image.name, unix.O_PATH|unix.O_DIRECTORY, 0, "served"),
		fork.OpenBeneath("served", it.inside, unix.O_PATH, 0, "inside"),
		fork.Clone("inside", it.fd).About(it.inside),
	)
}

// insideTree is what a bind of an image shows.
type insideTree struct {
	image *squashImage
	dir   string
}

func (t insideTree) lookup(rel string) (nodeKind, string, error) {
	return t.image.lookup(filepath.Join(t.dir, rel))
}

// serveTree returns what this process answers from, at a start that nothing may have been read for before.
func (p *Plan) serveTree() (*servedTree, error) {
	if p.tree != nil {
		return p.tree, nil
	}
	if p.backend != BackendFUSE {
		return p.newTree(nil)
	}
	r, err := squashfs.NewReader(io.NewSectionReader(p.file, p.offset, p.size), p.size, nil)
	if err != nil {
		return nil, err
	}
	return p.newTree(r)
}
