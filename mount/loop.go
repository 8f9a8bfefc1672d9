package mount

import (
	"fmt"
	"io/fs"
	"os"
)

// LoopDevice is a block device that shows a file.
type LoopDevice struct {
	f *os.File
}

// Path is the device's node.
func (d *LoopDevice) Path() string { return d.f.Name() }

// File is the open device. It belongs to d.
func (d *LoopDevice) File() *os.File { return d.f }

// Close lets go of the device. It disappears when it is not mounted, or no longer.
func (d *LoopDevice) Close() error { return d.f.Close() }

const sector = 512

// extent checks the part of the file that a device is to show. Devices have whole sectors: a size is rounded up where the
// file has the bytes, since an image that ends within a sector would lose its tail.
func extent(f *os.File, o *Options) (offset, size int64, err error) {
	if o == nil {
		o = &Options{}
	}
	invalid := func(format string, args ...any) (int64, int64, error) {
		return 0, 0, &fs.PathError{Op: "loop", Path: f.Name(), Err: fmt.Errorf(format+": %w", append(args, fs.ErrInvalid)...)}
	}
	st, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	if !st.Mode().IsRegular() {
		return invalid("not a regular file")
	}
	offset, size = o.Offset, o.Size
	switch {
	case offset < 0 || offset%sector != 0:
		return invalid("offset %d is no multiple of %d", offset, sector)
	case size < 0 || offset > st.Size() || size > st.Size()-offset:
		return invalid("%d bytes at %d reach beyond the end of the file at %d", size, offset, st.Size())
	}
	if size == 0 {
		size = st.Size() - offset
	}
	rounded := (size + sector - 1) / sector * sector
	if rounded > st.Size()-offset {
		return invalid("the image ends at %d, within a sector at the end of the file", offset+size)
	}
	return offset, rounded, nil
}
