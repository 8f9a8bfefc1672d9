package sif

import (
	"crypto"
	"encoding/binary"

	"hpcimg/sif/internal/disk"
)

// SignedHeader returns those bytes of the global header that signatures cover: launch script, magic, version and ID.
func (f *File) SignedHeader() []byte { return append([]byte(nil), f.signedHeader...) }

func signedHeader(h *disk.Header) []byte {
	b := append([]byte(nil), h.LaunchScript[:]...)
	b = append(b, h.Magic[:]...)
	b = append(b, h.Version[:]...)
	return append(b, h.ID[:]...)
}

// SignedDescriptor returns those bytes of the descriptor that signatures cover, with the ID counted from the smallest one of the object's
// group. Offset, group number and time of modification are not among them.
func (o Object) SignedDescriptor(relativeID uint32) []byte {
	d := &o.raw
	b := binary.LittleEndian.AppendUint32(nil, uint32(d.DataType))
	b = append(b, d.Used)
	b = binary.LittleEndian.AppendUint32(b, relativeID)
	b = binary.LittleEndian.AppendUint32(b, d.LinkedID)
	for _, v := range []int64{d.Size, d.CreatedAt, d.UID, d.GID} {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	b = append(b, d.Name[:]...)
	return append(b, d.Extra[:]...)
}

// SignatureHash returns the hash that an object of type DataSignature names for what it signs, 0 if it names none that is known. Only
// the format that was used before Singularity 3.6 depends on it.
func (o Object) SignatureHash() crypto.Hash {
	if o.Type != DataSignature {
		return 0
	}
	switch binary.LittleEndian.Uint32(o.raw.Extra[:]) {
	case 1:
		return crypto.SHA256
	case 2:
		return crypto.SHA384
	case 3:
		return crypto.SHA512
	}
	return 0
}
