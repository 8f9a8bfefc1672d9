package sif

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"hpcimg/sif/internal/disk"
)

const (
	// DefaultLaunchScript makes the file executable on a host that has a run-singularity program.
	DefaultLaunchScript = "#!/usr/bin/env run-singularity\n"

	// PartitionAlignment is the alignment of partitions in a file.
	PartitionAlignment = 4096

	// NameInspectMetadata and NameOCIConfig are the names under which runtimes look for the two JSON objects of an image.
	NameInspectMetadata = "inspect-metadata.json"
	NameOCIConfig       = "oci-config.json"

	imageGroup = 1
)

// WriterOptions describe the file to be written. Arch is required.
type WriterOptions struct {
	// Arch is the Go name of the architecture of the primary partition.
	Arch string
	// ID identifies the image. Zero is the nil UUID, which stands for a reproducible image.
	ID [16]byte
	// Time is stored as the time of creation and modification of everything. The zero time is stored as such, as
	// reproducible images have it.
	Time time.Time
	// LaunchScript is at most 31 bytes; "" means DefaultLaunchScript.
	LaunchScript string
	// Capacity is the number of descriptors; 0 means 48. What is left over is room for signatures.
	Capacity int
}

// Writer writes a container image. The order of calls is: AddDefinition and AddJSON in any order, then BeginPartition and EndPartition, then
// AddGeneric, then Close. After an error the output is worthless; Writer never removes anything.
type Writer struct {
	w          io.WriterAt
	header     disk.Header
	arch       [3]byte
	definition []byte
	json       []namedJSON
	table      []disk.Descriptor
	end        int64 // of the data written so far
	aligned    int64 // where the partition starts, once begun
	state      writerState
}

type namedJSON struct {
	name string
	data []byte
}

type writerState int

const (
	stateObjects writerState = iota
	statePartition
	stateDone
	stateClosed
)

// NewWriter returns a Writer that writes to w from offset 0. Nothing is written before BeginPartition or Close.
func NewWriter(w io.WriterAt, opts *WriterOptions) (*Writer, error) {
	var o WriterOptions
	if opts != nil {
		o = *opts
	}
	if o.Capacity == 0 {
		o.Capacity = disk.Capacity
	}
	if o.LaunchScript == "" {
		o.LaunchScript = DefaultLaunchScript
	}
	arch, err := archCode(o.Arch)
	switch {
	case err != nil:
		return nil, err
	case o.Capacity < 0 || o.Capacity > maxDescriptors:
		return nil, fmt.Errorf("sif: WriterOptions.Capacity %d: %w", o.Capacity, fs.ErrInvalid)
	case len(o.LaunchScript) >= disk.LaunchScriptSize:
		return nil, fmt.Errorf("sif: WriterOptions.LaunchScript of %d bytes: %w", len(o.LaunchScript), fs.ErrInvalid)
	}
	h := blankHeader(o.ID, o.Time, o.Capacity)
	copy(h.LaunchScript[:], o.LaunchScript)
	return &Writer{w: w, header: h, arch: arch, end: h.DataOffset}, nil
}

// blankHeader returns the header of a file without a launch script or a primary partition.
func blankHeader(id [16]byte, t time.Time, capacity int) disk.Header {
	h := disk.Header{
		Magic:             [10]byte([]byte(disk.Magic)),
		Version:           [3]byte([]byte(disk.Version)),
		Arch:              [3]byte([]byte("00\x00")), // until there is a primary partition
		ID:                id,
		CreatedAt:         t.Unix(),
		ModifiedAt:        t.Unix(),
		DescriptorsTotal:  int64(capacity),
		DescriptorsOffset: disk.TableOffset,
		DescriptorsSize:   int64(capacity) * disk.DescriptorSize,
	}
	h.DataOffset = h.DescriptorsOffset + h.DescriptorsSize
	return h
}

// AddDefinition adds the definition file. There can be one.
func (w *Writer) AddDefinition(data []byte) error {
	if w.definition != nil || w.state != stateObjects {
		return misuse("AddDefinition")
	}
	w.definition = append([]byte{}, data...)
	return nil
}

// AddJSON adds a JSON object. Objects are written in the order of their names, whatever the order of the calls.
func (w *Writer) AddJSON(name string, data []byte) error {
	if w.state != stateObjects {
		return misuse("AddJSON")
	}
	i, found := slices.BinarySearchFunc(w.json, name, func(j namedJSON, name string) int { return strings.Compare(j.name, name) })
	if found || name == "" || len(name) > disk.NameSize || strings.ContainsRune(name, 0) {
		return fmt.Errorf("sif: JSON object name %q: %w", name, fs.ErrInvalid)
	}
	w.json = slices.Insert(w.json, i, namedJSON{name, bytes.Clone(data)})
	return nil
}

// BeginPartition writes the objects added so far and returns the offset in the file at which the caller writes the squashfs.
func (w *Writer) BeginPartition() (offset int64, err error) {
	if w.state != stateObjects {
		return 0, misuse("BeginPartition")
	}
	w.aligned = (w.end + w.objectBytes() + PartitionAlignment - 1) &^ (PartitionAlignment - 1)
	if err := w.writeObjects(w.aligned); err != nil {
		return 0, err
	}
	w.state = statePartition
	return w.aligned, nil
}

// EndPartition says that the caller has written size bytes, more than none, from the offset that BeginPartition returned.
func (w *Writer) EndPartition(size int64) error {
	if w.state != statePartition || size <= 0 {
		return misuse("EndPartition")
	}
	d := disk.Descriptor{DataType: int32(DataPartition)}
	d.SetPartition(disk.Partition{FS: int32(FSSquashfs), Type: int32(PartitionPrimarySystem), Arch: w.arch})
	if err := w.add(d, w.aligned, size); err != nil {
		return err
	}
	w.header.Arch = w.arch
	w.state = stateDone
	return nil
}

// AddGeneric writes an object of data that only some programs know, behind the partition. Others take no notice of it.
func (w *Writer) AddGeneric(name string, data []byte) error {
	if w.state != stateDone {
		return misuse("AddGeneric")
	}
	if name == "" || len(name) > disk.NameSize || strings.ContainsRune(name, 0) {
		return fmt.Errorf("sif: object name %q: %w", name, fs.ErrInvalid)
	}
	d := disk.Descriptor{DataType: int32(DataGeneric)}
	copy(d.Name[:], name)
	start := w.end
	if err := w.add(d, start, int64(len(data))); err != nil {
		return err
	}
	if _, err := w.w.WriteAt(data, start); err != nil {
		return fmt.Errorf("sif: object %s: %w", name, err)
	}
	return nil
}

// Close writes what is left, the header last, and returns the size of the file. A file without a partition is allowed.
func (w *Writer) Close() (size int64, err error) {
	switch w.state {
	case stateObjects:
		if err := w.writeObjects(w.end + w.objectBytes()); err != nil {
			return 0, err
		}
	case stateDone:
	default:
		return 0, misuse("Close")
	}
	w.state = stateClosed
	w.header.DescriptorsFree = w.header.DescriptorsTotal - int64(len(w.table))
	w.header.DataSize = w.end - w.header.DataOffset
	// The table first: a file that ends up without a header is no SIF, while one without descriptors would be an empty one.
	table := make([]byte, w.header.DescriptorsSize)
	for i := range w.table {
		raw := w.table[i].Encode()
		copy(table[i*disk.DescriptorSize:], raw[:])
	}
	if _, err := w.w.WriteAt(table, w.header.DescriptorsOffset); err != nil {
		return 0, fmt.Errorf("sif: descriptor table: %w", err)
	}
	header := make([]byte, w.header.DescriptorsOffset)
	raw := w.header.Encode()
	copy(header, raw[:])
	if _, err := w.w.WriteAt(header, 0); err != nil {
		return 0, fmt.Errorf("sif: global header: %w", err)
	}
	return w.end, nil
}

// objectBytes returns the size of the objects that stand before the partition.
func (w *Writer) objectBytes() int64 {
	n := int64(len(w.definition))
	for _, j := range w.json {
		n += int64(len(j.data))
	}
	return n
}

// writeObjects writes definition and JSON, and zeros from their end up to the offset fill.
func (w *Writer) writeObjects(fill int64) error {
	start := w.end
	data := make([]byte, 0, fill-start)
	if w.definition != nil {
		data = append(data, w.definition...)
		if err := w.add(disk.Descriptor{DataType: int32(DataDefinition)}, w.end, int64(len(w.definition))); err != nil {
			return err
		}
	}
	for _, j := range w.json {
		data = append(data, j.data...)
		d := disk.Descriptor{DataType: int32(DataJSON)}
		copy(d.Name[:], j.name)
		if err := w.add(d, w.end, int64(len(j.data))); err != nil {
			return err
		}
	}
	if _, err := w.w.WriteAt(data[:fill-start], start); err != nil {
		return fmt.Errorf("sif: data objects: %w", err)
	}
	return nil
}

// add fills in the common part of d and appends it to the table.
func (w *Writer) add(d disk.Descriptor, offset, size int64) error {
	if len(w.table) >= int(w.header.DescriptorsTotal) {
		return &LimitError{What: "number of descriptors", Limit: w.header.DescriptorsTotal}
	}
	d.Used = 1
	d.ID = uint32(len(w.table)) + 1
	d.GroupID = imageGroup | disk.GroupMask
	d.Offset = offset
	d.Size = size
	d.SizeWithPadding = offset - w.end + size
	d.CreatedAt = w.header.CreatedAt
	d.ModifiedAt = w.header.ModifiedAt
	w.table = append(w.table, d)
	w.end = offset + size
	return nil
}

func misuse(call string) error {
	return fmt.Errorf("sif: %s called out of order: %w", call, fs.ErrInvalid)
}
