package disk

import (
	"encoding/binary"
)

// Sizes and fixed values of the format.
const (
	HeaderSize     = 128
	DescriptorSize = 585

	LaunchScriptSize = 32
	NameSize         = 128
	ExtraSize        = 384

	Magic   = "SIF_MAGIC\x00"
	Version = "01\x00"

	// TableOffset and Capacity are what every known writer uses for a container image. Data then starts at 32176.
	TableOffset = 4096
	Capacity    = 48

	// GroupMask is set in every group field, and in a link field that names a group instead of an object.
	GroupMask = 0xf0000000
)

// Header is the global header.
type Header struct {
	LaunchScript      [LaunchScriptSize]byte
	Magic             [10]byte
	Version           [3]byte
	Arch              [3]byte
	ID                [16]byte
	CreatedAt         int64
	ModifiedAt        int64
	DescriptorsFree   int64
	DescriptorsTotal  int64
	DescriptorsOffset int64
	DescriptorsSize   int64
	DataOffset        int64
	DataSize          int64
}

// Descriptor is one slot of the descriptor table.
type Descriptor struct {
	DataType        int32
	Used            byte
	ID              uint32
	GroupID         uint32
	LinkedID        uint32
	Offset          int64
	Size            int64
	SizeWithPadding int64
	CreatedAt       int64
	ModifiedAt      int64
	UID             int64
	GID             int64
	Name            [NameSize]byte
	Extra           [ExtraSize]byte
}

// Partition is the start of Extra in the descriptor of a partition.
type Partition struct {
	FS   int32
	Type int32
	Arch [3]byte
}

// PartitionSize is the encoded size of a Partition.
const PartitionSize = 11

// DecodeHeader reads a header from the first HeaderSize bytes of b.
func DecodeHeader(b *[HeaderSize]byte) Header {
	var h Header
	r := cursor(b[:])
	r.bytes(h.LaunchScript[:])
	r.bytes(h.Magic[:])
	r.bytes(h.Version[:])
	r.bytes(h.Arch[:])
	r.bytes(h.ID[:])
	for _, p := range h.integers() {
		*p = r.int64()
	}
	return h
}

// Encode is the inverse of DecodeHeader.
func (h *Header) Encode() [HeaderSize]byte {
	b := make([]byte, 0, HeaderSize)
	b = append(b, h.LaunchScript[:]...)
	b = append(b, h.Magic[:]...)
	b = append(b, h.Version[:]...)
	b = append(b, h.Arch[:]...)
	b = append(b, h.ID[:]...)
	for _, p := range h.integers() {
		b = binary.LittleEndian.AppendUint64(b, uint64(*p))
	}
	return [HeaderSize]byte(b)
}

func (h *Header) integers() []*int64 {
	return []*int64{
		&h.CreatedAt, &h.ModifiedAt, &h.DescriptorsFree, &h.DescriptorsTotal,
		&h.DescriptorsOffset, &h.DescriptorsSize, &h.DataOffset, &h.DataSize,
	}
}

// DecodeDescriptor reads one descriptor.
func DecodeDescriptor(b *[DescriptorSize]byte) Descriptor {
	var d Descriptor
	r := cursor(b[:])
	d.DataType = int32(r.uint32())
	d.Used = r[0]
	r = r[1:]
	d.ID, d.GroupID, d.LinkedID = r.uint32(), r.uint32(), r.uint32()
	for _, p := range d.integers() {
		*p = r.int64()
	}
	r.bytes(d.Name[:])
	r.bytes(d.Extra[:])
	return d
}

// Encode is the inverse of DecodeDescriptor.
func (d *Descriptor) Encode() [DescriptorSize]byte {
	b := make([]byte, 0, DescriptorSize)
	b = binary.LittleEndian.AppendUint32(b, uint32(d.DataType))
	b = append(b, d.Used)
	b = binary.LittleEndian.AppendUint32(b, d.ID)
	b = binary.LittleEndian.AppendUint32(b, d.GroupID)
	b = binary.LittleEndian.AppendUint32(b, d.LinkedID)
	for _, p := range d.integers() {
		b = binary.LittleEndian.AppendUint64(b, uint64(*p))
	}
	b = append(b, d.Name[:]...)
	b = append(b, d.Extra[:]...)
	return [DescriptorSize]byte(b)
}

func (d *Descriptor) integers() []*int64 {
	return []*int64{&d.Offset, &d.Size, &d.SizeWithPadding, &d.CreatedAt, &d.ModifiedAt, &d.UID, &d.GID}
}

// Partition reads Extra as that of a partition.
func (d *Descriptor) Partition() Partition {
	r := cursor(d.Extra[:])
	var p Partition
	p.FS, p.Type = int32(r.uint32()), int32(r.uint32())
	r.bytes(p.Arch[:])
	return p
}

// SetPartition writes p into Extra.
func (d *Descriptor) SetPartition(p Partition) {
	b := make([]byte, 0, PartitionSize)
	b = binary.LittleEndian.AppendUint32(b, uint32(p.FS))
	b = binary.LittleEndian.AppendUint32(b, uint32(p.Type))
	b = append(b, p.Arch[:]...)
	d.Extra = [ExtraSize]byte{}
	copy(d.Extra[:], b)
}

// cursor takes fields off the front of a buffer whose length is known to suffice.
type cursor []byte

func (c *cursor) bytes(dst []byte) { *c = (*c)[copy(dst, *c):] }

func (c *cursor) uint32() uint32 {
	v := binary.LittleEndian.Uint32(*c)
	*c = (*c)[4:]
	return v
}

func (c *cursor) int64() int64 {
	v := int64(binary.LittleEndian.Uint64(*c))
	*c = (*c)[8:]
	return v
}
