package squashfs

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync/atomic"
)

// place is where a file is extracted: a name in a directory. Its path is put
// together when it is asked for, which is seldom, since hostile trees have
// paths without end.
type place struct {
	dir  *extractDir // nil: the destination itself
	name string
}

// dest returns the path in the destination.
func (p place) dest() string {
	var names []string
	for ; p.dir != nil; p = p.dir.place {
		names = append(names, p.name)
	}
	if len(names) == 0 {
		return "."
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}

// path returns the path in the image.
func (x *extractor) path(p place) string { return path.Join(x.base, p.dest()) }

// extractDir is a directory that is being filled. It is finished, and closed,
// when the walk has left it and all of its files are written.
type extractDir struct {
	place
	dest    *destDir
	in      *Inode // nil: leave its attributes alone
	pending atomic.Int32

	// Files for the next worker. They are handed out by the dozen: most
	// are written in less time than it takes to wake somebody up.
	waiting      []*extractFile
	waitingBytes int64
}

// release drops one reason to keep d open.
func (x *extractor) release(d *extractDir) {
	for d != nil && d.pending.Add(-1) == 0 {
		if d.in != nil && x.ctx.Err() == nil {
			x.finishDir(d)
		}
		d.dest.close()
		d = d.dir
	}
}

func (x *extractor) finishDir(d *extractDir) {
	if d.in.d.Mode&0o100 == 0 {
		// Hard links to files in there still have to be made.
		x.mu.Lock()
		x.deferred = append(x.deferred, d)
		x.mu.Unlock()
		return
	}
	if err := x.setAttrs(d.dest.destFile, birth{}, d.place, d.in); err != nil {
		x.fail(d.place, err)
	}
}

func (x *extractor) finishDeferred(d *extractDir) {
	root, err := x.root.OpenRoot(d.place.dest())
	if err != nil {
		x.fail(d.place, err)
		return
	}
	defer root.Close()
	dest, err := openDest(root)
	if err != nil {
		x.fail(d.place, err)
		return
	}
	defer dest.close()
	if err := x.setAttrs(dest.destFile, birth{}, d.place, d.in); err != nil {
		x.fail(d.place, err)
	}
}

// walk extracts the contents of a directory.
func (x *extractor) walk(d *extractDir, depth int) error {
	if depth > maxExtractDepth {
		return &LimitError{What: "nested directories", Limit: maxExtractDepth}
	}
	defer x.handOut(d)
	for e, err := range d.in.ReadDir(0) {
		if err == nil {
			err = context.Cause(x.ctx)
		}
		if err != nil {
			return err
		}
		in, err := d.in.Child(e)
		if err == nil {
			err = x.entry(d, e.Name, in, depth)
		}
		if err != nil {
			return x.located(place{d, e.Name}, err)
		}
	}
	return nil
}

// located adds the path to an error that has none yet.
func (x *extractor) located(p place, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) && pe.Op == "extract" {
		return err
	}
	return &fs.PathError{Op: "extract", Path: x.path(p), Err: err}
}

// entry extracts one entry of a directory.
func (x *extractor) entry(d *extractDir, name string, in *Inode, depth int) error {
	if x.count++; x.o.MaxEntries > 0 && x.count > x.o.MaxEntries {
		return &LimitError{What: "entries", Limit: x.o.MaxEntries}
	}
	p := place{d, name}
	if !in.IsDir() && in.LinkCount() > 1 {
		if first, ok := x.links[in.ref]; ok {
			x.add(func(res *ExtractResult) { res.HardLinks++ })
			return x.root.Link(first.dest(), p.dest())
		}
	}
	switch {
	case in.IsDir():
		return x.directory(p, in, depth)
	case in.isRegular():
		return x.file(p, in)
	case in.isSymlink():
		if err := d.dest.symlink(in.target, name); err != nil {
			return err
		}
		x.add(func(res *ExtractResult) { res.Symlinks++ })
	default:
		if made, err := x.special(p, in); !made {
			return err
		}
	}
	x.remember(in, p)
	return x.setLinkAttrs(p, in)
}

// remember notes the first name of a file with several.
func (x *extractor) remember(in *Inode, p place) {
	if in.LinkCount() > 1 {
		x.links[in.ref] = p
	}
}

func (x *extractor) directory(p place, in *Inode, depth int) error {
	dest, err := p.dir.dest.mkdir(p.name)
	if err != nil {
		return err
	}
	x.add(func(res *ExtractResult) { res.Directories++ })
	sub := &extractDir{place: p, dest: dest, in: in}
	sub.pending.Store(1)
	p.dir.pending.Add(1)
	defer x.release(sub)
	return x.walk(sub, depth+1)
}

// special makes a device, named pipe or socket.
func (x *extractor) special(p place, in *Inode) (made bool, err error) {
	device := in.Mode()&fs.ModeDevice != 0
	if device && x.o.NoDevices {
		return false, nil
	}
	switch err := p.dir.dest.mknod(p.name, in.Mode(), in.d.Device); {
	case err == nil:
		x.add(func(res *ExtractResult) { res.Specials++ })
		return true, nil
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported):
		x.skip(p, SkippedDevice, err)
		return false, nil
	default:
		return false, err
	}
}

// partBlocks is how many blocks of a large file one worker writes at a time.
const partBlocks = 32

// extractFile is a regular file being written, in one or several parts.
type extractFile struct {
	place
	in      *Inode
	f       destFile
	made    bool
	birth   birth
	pending atomic.Int64
}

// file extracts a regular file, at once or in the background. Files that
// others will link to, and files of several parts, have to exist first.
func (x *extractor) file(p place, in *Inode) error {
	ef := &extractFile{place: p, in: in}
	parts := max((in.blocks.count+partBlocks-1)/partBlocks, 1)
	if in.LinkCount() > 1 || parts > 1 {
		if err := x.create(ef); err != nil {
			return err
		}
		x.remember(in, p)
	}
	if parts > 1 {
		if err := ef.f.truncate(int64(in.d.Size)); err != nil {
			return errors.Join(err, ef.f.close())
		}
	}
	x.files.Add(1)
	p.dir.pending.Add(1)
	if parts == 1 {
		ef.pending.Store(1)
		x.wait(p.dir, ef)
		return nil
	}
	// One more than the parts, so that the file stays open until all of them
	// are queued.
	ef.pending.Store(1)
	for i := int64(0); i < parts && x.ctx.Err() == nil; i++ {
		ef.pending.Add(1)
		x.do(func() { x.part(ef, i*partBlocks, min((i+1)*partBlocks, in.blocks.count)) })
	}
	x.partDone(ef)
	return nil
}

// wait puts a file of one part among those for the next worker.
func (x *extractor) wait(d *extractDir, ef *extractFile) {
	const (
		maxFiles = 12
		maxBytes = 256 << 10
	)
	d.waiting = append(d.waiting, ef)
	d.waitingBytes += int64(ef.in.d.Size)
	if len(d.waiting) >= maxFiles || d.waitingBytes >= maxBytes || x.jobs == nil {
		x.handOut(d)
	}
}

func (x *extractor) handOut(d *extractDir) {
	files := d.waiting
	if len(files) == 0 {
		return
	}
	d.waiting, d.waitingBytes = nil, 0
	x.do(func() {
		for _, ef := range files {
			x.part(ef, 0, ef.in.blocks.count)
		}
	})
}

func (x *extractor) create(ef *extractFile) (err error) {
	ef.f, ef.birth, err = ef.dir.dest.create(ef.name, x.birthPerm(ef.in))
	ef.made = err == nil
	return err
}

// part writes blocks from first to last of a file, and its fragment behind the
// last one.
func (x *extractor) part(ef *extractFile, first, last int64) {
	defer x.partDone(ef)
	if x.ctx.Err() != nil {
		return
	}
	if !ef.made {
		if err := x.create(ef); err != nil {
			x.fail(ef.place, err)
			return
		}
	}
	if err := x.writeBlocks(ef, first, last); err != nil {
		x.fail(ef.place, err)
	}
}

// partDone finishes the file after its last part.
func (x *extractor) partDone(ef *extractFile) {
	if ef.pending.Add(-1) > 0 {
		return
	}
	defer x.release(ef.dir)
	if !ef.made {
		return
	}
	var err error
	if x.ctx.Err() == nil {
		err = x.setAttrs(ef.f, ef.birth, ef.place, ef.in)
	}
	if err := errors.Join(err, ef.f.close()); err != nil {
		x.fail(ef.place, err)
	}
}

// writeBlocks writes a range of blocks. Holes are left out; what follows them
// makes the file long enough, or else Truncate.
func (x *extractor) writeBlocks(ef *extractFile, first, last int64) error {
	in := ef.in
	bs := int64(x.r.sb.BlockSize)
	var buf []byte
	if first < last {
		buf = x.r.buffers.get(int(bs))
		defer x.r.buffers.put(buf)
	}
	var words [partBlocks]blockWord
	hole := false
	for i := first; i < last; {
		n, err := in.blockWords(i, words[:last-i])
		if err != nil {
			return err
		}
		for _, w := range words[:n] {
			if err := context.Cause(x.ctx); err != nil {
				return err
			}
			if hole = w.word == 0; !hole {
				dst := buf[:in.blockSizeAt(i)]
				if err := x.r.readBlock(dst, w); err != nil {
					return err
				}
				if err := x.write(ef, dst, i*bs); err != nil {
					return err
				}
			}
			i++
		}
	}
	if last < in.blocks.count {
		return nil
	}
	if in.d.Fragment != noFragment && in.fragmentSize() > 0 {
		return x.writeTail(ef)
	}
	if hole {
		return ef.f.truncate(int64(in.d.Size))
	}
	return nil
}

func (x *extractor) writeTail(ef *extractFile) error {
	in := ef.in
	shelved, err := x.fragments.take(in.d.Fragment)
	if err != nil {
		return err
	}
	defer x.fragments.putBack(shelved)
	data, err := in.tailOf(shelved.data)
	if err != nil {
		return err
	}
	return x.write(ef, data, in.blocks.count*int64(x.r.sb.BlockSize))
}

func (x *extractor) write(ef *extractFile, p []byte, off int64) error {
	total := x.bytes.Add(int64(len(p)))
	if x.o.MaxBytes > 0 && total > x.o.MaxBytes {
		return &LimitError{What: "bytes", Limit: x.o.MaxBytes}
	}
	if x.o.Progress != nil {
		x.o.Progress(int64(len(p)))
	}
	return ef.f.writeAt(p, off)
}
