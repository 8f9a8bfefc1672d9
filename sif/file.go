package sif

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"hpcimg/sif/internal/disk"
)

// Header is the global header of a file. Only LaunchScript and ID are covered by signatures.
type Header struct {
	LaunchScript      string
	Arch              string // Go name; "" when the file has no primary partition. A hint: see Object.Partition for the truth.
	ID                [16]byte
	Created, Modified time.Time
	Capacity, Free    int   // slots of the descriptor table
	TableOffset       int64 // descriptor table
	DataOffset        int64 // data section
	DataSize          int64
}

// Object is a data object: its descriptor, and access to its bytes.
type Object struct {
	ID      uint32
	GroupID uint32 // 0: in no group
	Type    DataType
	Name    string // as stored: may hold control characters, so quote it for a terminal

	// LinkedID names another object, or with LinkedGroup a group; 0: no link.
	LinkedID    uint32
	LinkedGroup bool

	Offset, Size      int64
	Created, Modified time.Time

	// Partition describes an object of type DataPartition and is zero for others.
	Partition Partition

	raw disk.Descriptor
	r   io.ReaderAt
}

// Partition describes what a partition holds.
type Partition struct {
	FS   FSType
	Type PartitionType
	Arch string // Go name; "" when unknown
}

// Open returns a reader of the object's bytes, and of nothing else in the file. Readers are independent of each other.
func (o Object) Open() *io.SectionReader { return io.NewSectionReader(o.r, o.Offset, o.Size) }

// Fingerprint returns the fingerprint field of an object of type DataSignature, which names who claims to have signed; nil when
// the field is empty. It proves nothing: package sign does.
func (o Object) Fingerprint() []byte {
	const at, size = 4, 20 // after the hash type
	fp := o.raw.Extra[at : at+size]
	if o.Type != DataSignature || string(fp) == string(make([]byte, size)) {
		return nil
	}
	return slices.Clone(fp)
}

// Digest returns the digest stored with an object of type DataOCIBlob or DataOCIRootIndex, as "algorithm:hex", unverified; "" for
// other objects.
func (o Object) Digest() string {
	if o.Type != DataOCIBlob && o.Type != DataOCIRootIndex {
		return ""
	}
	text, _, _ := strings.Cut(string(o.raw.Extra[:]), "\x00")
	return text
}

// File is an open SIF file whose header and descriptors have been checked. It is immutable and safe for concurrent use as far as the
// reader below it is.
type File struct {
	r       io.ReaderAt
	size    int64
	closer  io.Closer
	header  Header
	objects []Object

	signedHeader []byte
}

// Open opens the file at path for reading.
func Open(path string) (*File, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, notRegular(path) // opening a pipe would wait for somebody to write to it
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	file, err := openFile(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	file.closer = f
	return file, nil
}

func openFile(f *os.File) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, notRegular(f.Name())
	}
	return NewFile(f, info.Size())
}

func notRegular(path string) error {
	return &fs.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
}

// NewFile checks the header and the descriptors of the file of the given size in r. It reads at most the header and the descriptor
// table, and allocates no more than a few times the size of the latter, which is limited.
func NewFile(r io.ReaderAt, size int64) (*File, error) {
	h, err := readHeader(r, size)
	if err != nil {
		return nil, err
	}
	table, err := readTable(r, h)
	if err != nil {
		return nil, err
	}
	if err := checkTable(h, table, size); err != nil {
		return nil, err
	}
	f := &File{r: r, size: size, header: newHeader(h), signedHeader: signedHeader(h)}
	for i := range table {
		if table[i].Used != 0 {
			f.objects = append(f.objects, newObject(&table[i], r))
		}
	}
	return f, nil
}

func newHeader(h *disk.Header) Header {
	return Header{
		LaunchScript: trimNUL(h.LaunchScript[:]),
		Arch:         archName(h.Arch),
		ID:           h.ID,
		Created:      time.Unix(h.CreatedAt, 0).UTC(),
		Modified:     time.Unix(h.ModifiedAt, 0).UTC(),
		Capacity:     int(h.DescriptorsTotal),
		Free:         int(h.DescriptorsFree),
		TableOffset:  h.DescriptorsOffset,
		DataOffset:   h.DataOffset,
		DataSize:     h.DataSize,
	}
}

func newObject(d *disk.Descriptor, r io.ReaderAt) Object {
	o := Object{
		ID:          d.ID,
		GroupID:     d.GroupID &^ disk.GroupMask,
		Type:        DataType(d.DataType),
		Name:        trimNUL(d.Name[:]),
		LinkedID:    d.LinkedID &^ disk.GroupMask,
		LinkedGroup: d.LinkedID&disk.GroupMask != 0,
		Offset:      d.Offset,
		Size:        d.Size,
		Created:     time.Unix(d.CreatedAt, 0).UTC(),
		Modified:    time.Unix(d.ModifiedAt, 0).UTC(),
		raw:         *d,
		r:           r,
	}
	if o.Type == DataPartition {
		p := d.Partition()
		o.Partition = Partition{FS: FSType(p.FS), Type: PartitionType(p.Type), Arch: archName(p.Arch)}
	}
	return o
}

func trimNUL(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// Header returns the global header.
func (f *File) Header() Header { return f.header }

// Size returns the size of the whole file.
func (f *File) Size() int64 { return f.size }

// ReadAt reads from the whole file.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	return io.NewSectionReader(f.r, 0, f.size).ReadAt(p, off)
}

// Objects returns the data objects in the order of their descriptors.
func (f *File) Objects() []Object { return slices.Clone(f.objects) }

// Object returns the object with an ID. The error is fs.ErrNotExist if there is none.
func (f *File) Object(id uint32) (Object, error) {
	for _, o := range f.objects {
		if o.ID == id {
			return o, nil
		}
	}
	return Object{}, notFound(fmt.Sprintf("object %d", id))
}

// Primary returns the primary partition, which must be a squashfs. Otherwise the error is a *PrimaryError.
func (f *File) Primary() (Object, error) {
	var found []Object
	for _, o := range f.objects {
		if o.Type == DataPartition && o.Partition.Type == PartitionPrimarySystem {
			found = append(found, o)
		}
	}
	if len(found) == 0 {
		return Object{}, &PrimaryError{Err: fs.ErrNotExist}
	}
	o := found[0]
	e := &PrimaryError{ID: o.ID, FS: o.Partition.FS}
	switch {
	case len(found) > 1:
		e.Err = fmt.Errorf("objects %d and %d both claim to be it: %w", o.ID, found[1].ID, ErrFormat)
	case o.Partition.FS == FSEncrypted || o.Partition.FS == FSGocryptSquashfs:
		e.Err = fmt.Errorf("object %d is encrypted (%v): %w", o.ID, o.Partition.FS, errors.ErrUnsupported)
	case o.Partition.FS != FSSquashfs:
		e.Err = fmt.Errorf("object %d holds %v: %w", o.ID, o.Partition.FS, errors.ErrUnsupported)
	default:
		return o, nil
	}
	return Object{}, e
}

// Close closes a file that Open opened. For one from NewFile it does nothing.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}
