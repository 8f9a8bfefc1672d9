package squashfs

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/maphash"
)

// contentIndex finds contents by digest. Keys are only part of the digest; of
// contents with the same key only the first is found.
type contentIndex map[uint64]*Content

func contentKey(c *Content) uint64 {
	return binary.LittleEndian.Uint64(c.Digest[:]) ^ uint64(c.Size)
}

// find returns a content equal to c, or nil.
func (x contentIndex) find(c *Content) *Content {
	if o := x[contentKey(c)]; o != nil && o.Digest == c.Digest && o.Size == c.Size {
		return o
	}
	return nil
}

func (x contentIndex) add(c *Content) {
	if k := contentKey(c); x[k] == nil {
		x[k] = c
	}
}

// smallFile is what a smallIndex keeps of a file in a group.
type smallFile struct {
	digest   [sha256.Size]byte
	fragment int32
	offset   uint32
}

// smallIndex finds files in groups by digest. There may be millions of them, so
// it takes some 50 bytes for each, none of them a pointer, and grows without
// copying. The digest decides alone: that it be another size is no likelier
// than any other collision.
type smallIndex struct {
	seed  maphash.Seed
	slots []uint32 // a power of 2; the number of a file plus 1, or 0
	files [][]smallFile
	n     int
}

// smallChunk is the number of files that are allocated together.
const smallChunk = 4096

func (x *smallIndex) file(i uint32) *smallFile { return &x.files[i/smallChunk][i%smallChunk] }

// slot returns where digest is, or where it would have to be. Who makes the
// files may choose their digests: hence the seed.
func (x *smallIndex) slot(digest *[sha256.Size]byte) *uint32 {
	mask := uint64(len(x.slots) - 1)
	for h := maphash.Bytes(x.seed, digest[:]); ; h++ {
		s := &x.slots[h&mask]
		if *s == 0 || x.file(*s-1).digest == *digest {
			return s
		}
	}
}

// find returns the file with that digest, or nil.
func (x *smallIndex) find(digest *[sha256.Size]byte) *smallFile {
	if x.n == 0 {
		return nil
	}
	s := x.slot(digest)
	if *s == 0 {
		return nil
	}
	return x.file(*s - 1)
}

// add adds a file that find does not find.
func (x *smallIndex) add(f smallFile) {
	if x.n >= len(x.slots)/4*3 {
		x.grow()
	}
	if x.n%smallChunk == 0 {
		x.files = append(x.files, make([]smallFile, smallChunk))
	}
	*x.file(uint32(x.n)) = f
	*x.slot(&f.digest) = uint32(x.n) + 1
	x.n++
}

func (x *smallIndex) grow() {
	if x.slots == nil {
		x.seed = maphash.MakeSeed()
	}
	x.slots = make([]uint32, max(1024, 2*len(x.slots)))
	for i := range uint32(x.n) {
		*x.slot(&x.file(i).digest) = i + 1
	}
}
