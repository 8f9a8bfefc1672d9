package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
)

// Names in the directory of a persistent overlay.
const (
	upperName = "upper"
	workName  = "work"
)

// stack is an image with directories laid over it, the first on top. It serves planning: what is opaque is not looked at, so
// that a file may be found which is hidden, and the mount on it fails.
type stack []image

func (s stack) lookup(rel string) (nodeKind, string, error) {
	_, kind, link, err := s.find(rel)
	return kind, link, err
}

func (s stack) find(rel string) (image, nodeKind, string, error) {
	for _, layer := range s {
		kind, link, err := layer.lookup(rel)
		if err != nil || kind != nodeNone {
			return layer, kind, link, err
		}
		if d, ok := layer.(*dirImage); ok && d.whiteout(rel) {
			break
		}
	}
	return nil, nodeNone, "", nil
}

func (s stack) readFile(rel string, limit int64) ([]byte, error) {
	layer, _, _, err := s.find(rel)
	if err != nil {
		return nil, err
	}
	if layer == nil {
		return nil, &fs.PathError{Op: "open", Path: rel, Err: fs.ErrNotExist}
	}
	return layer.readFile(rel, limit)
}

func (s stack) Close() error {
	for _, layer := range s {
		layer.Close()
	}
	return nil
}

// openOverlay lays the directories of the overlay over the image.
func (c *compiler) openOverlay() error {
	o := &c.spec.Overlay
	if o.empty() {
		return nil
	}
	layers := stack{c.image}
	for _, name := range o.Layers {
		l, layer, err := c.openLower(name)
		if err != nil {
			layers[:len(layers)-1].Close() // not the image
			return fmt.Errorf("overlay: %w", err)
		}
		layers = append(stack{layer}, layers...)
		c.lowers = append(c.lowers, l)
	}
	if o.Dir != "" {
		real, dir, err := openLayer(o.Dir, "")
		if err != nil {
			layers.Close()
			if errors.Is(err, unix.ENOTDIR) {
				err = fmt.Errorf("%w: changes go to a directory; an image in a file can be laid over another to be read", err)
			}
			return fmt.Errorf("overlay: %w", err)
		}
		dir.Close()
		c.upper = real
		if _, layer, err := openLayer(real, upperName); err == nil {
			layers = append(stack{layer}, layers...)
		}
	}
	c.image = layers
	return nil
}

// lower is what is laid over the image to be read: a directory of the host, or an image that is served under a name.
type lower struct{ dir, served string }

func (c *compiler) openLower(name string) (lower, image, error) {
	if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
		abs, err := filepath.Abs(name)
		if err != nil {
			return lower{}, nil, err
		}
		x, err := c.addExtra(abs, false)
		if err != nil {
			return lower{}, nil, err
		}
		return lower{served: x.name}, newSquashImage(c.ctx, x.reader), nil
	}
	real, layer, err := openLayer(name, "")
	return lower{dir: real}, layer, err
}

func openLayer(dir, name string) (real string, layer *dirImage, err error) {
	if real, err = filepath.Abs(dir); err == nil {
		real, err = filepath.EvalSymlinks(real)
	}
	if err != nil {
		return "", nil, err
	}
	real = filepath.Join(real, name)
	fd, err := unix.Open(real, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &fs.PathError{Op: "open", Path: real, Err: err}
	}
	return real, &dirImage{dir: os.NewFile(uintptr(fd), real), layer: true}, nil
}

// overlaySources clones the directories of the overlay, before anything covers them.
func (e *emitter) overlaySources() {
	for i, l := range e.lowers {
		if l.served != "" {
			continue
		}
		e.add(fork.OpenTree(l.dir, false, lowerFD(i)))
		if e.host.setAttr {
			e.attributes(lowerFD(i), imageFlags, false, l.dir)
		}
	}
	if e.upper != "" {
		e.add(fork.OpenTree(e.upper, false, "over"))
	}
}

func lowerFD(i int) fork.FD { return fork.FD(fmt.Sprintf("layer%d", i)) }

// overlay mounts base, with the skeleton below it and the layers of the specification above it, at root.
func (e *emitter) overlay(base, root string) {
	lower := base
	if len(e.root.order) > 0 && e.overlaid() {
		e.add(
			fork.Mkdir(fork.CWD, e.stage+"/skeleton", 0o755),
			fork.Open(fork.CWD, e.stage+"/skeleton", unix.O_PATH|unix.O_DIRECTORY, 0, "skeleton"),
		)
		e.skeleton()
		lower += ":" + e.stage + "/skeleton"
	}
	for i, l := range e.lowers {
		if l.served != "" {
			lower = e.servedDir() + "/" + l.served + ":" + lower
			continue
		}
		dir := fmt.Sprintf("%s/layer%d", e.stage, i)
		e.add(fork.Mkdir(fork.CWD, dir, 0o755), fork.AttachAt(lowerFD(i), dir))
		lower = dir + ":" + lower
	}
	o := &e.spec.Overlay
	if !o.writable() {
		e.add(fork.Mount(fork.At(""), fork.At(root), "overlay", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, fork.At("lowerdir="+lower)).About("overlay"))
		return
	}
	over := e.stage + "/over"
	e.add(fork.Mkdir(fork.CWD, over, 0o755))
	if o.Tmpfs {
		options := "mode=0755"
		if o.TmpfsSize > 0 {
			options += fmt.Sprintf(",size=%d", o.TmpfsSize)
		}
		e.add(fork.Mount(fork.At(""), fork.At(over), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fork.At(options)))
		e.add(fork.Open(fork.CWD, over, unix.O_PATH|unix.O_DIRECTORY, 0, "over"))
	} else {
		e.add(fork.AttachAt("over", over))
	}
	const flags = unix.O_PATH | unix.O_DIRECTORY
	e.add(
		fork.Mkdir("over", upperName, 0o755).Lax(), fork.Mkdir("over", workName, 0o755).Lax(),
		fork.OpenBeneath("over", upperName, flags, 0, "upper"), fork.OpenBeneath("over", workName, flags, 0, "work"),
	)
	data := []fork.Path{
		fork.At("lowerdir=" + lower + ",upperdir="), fork.Through("upper"), fork.At(",workdir="), fork.Through("work"),
	}
	if e.userNS() {
		data = append(data, fork.At(",userxattr")) // trusted attributes are for root
	}
	e.add(fork.Mount(fork.At(""), fork.At(root), "overlay", unix.MS_NOSUID|unix.MS_NODEV, data...).About("overlay"))
}

// cover lays an overlay without changes over a mount that this process serves, of that and of an empty directory, since one layer
// is not enough. Python asks of each file that it opens whether it is a terminal, which FUSE has to ask the server, every time; the
// overlay answers by itself. Where the kernel makes none, the mount is seen without it.
//
// The name of the layer ends in "/.", so that its attributes have been asked for by the time that the overlay takes them over: those that
// a FUSE mount begins with let nobody in.
func (e *emitter) cover(dir string) {
	e.plan.covered = true
	e.add(
		fork.Mkdir(fork.CWD, e.stage+"/nothing", 0o755),
		fork.Mount(fork.At(""), fork.At(dir), "overlay", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, fork.At("lowerdir="+dir+"/.:"+e.stage+"/nothing")).About(dir).Lax(),
	)
}
