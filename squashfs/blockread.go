package squashfs

import (
	"io"
	"io/fs"

	"hpcimg/squashfs/internal/disk"
)

// BlocksAt fills dst with the data blocks of a regular file from number i on, the first being 0. It returns how many it
// filled, which may be fewer than there are, but is 0 only together with an error: io.EOF if the file has no block i. What
// lies in a fragment is in no block.
func (in *Inode) BlocksAt(dst []Block, i int64) (int, error) {
	if err := in.readable(); err != nil {
		return 0, err
	}
	switch {
	case i < 0:
		return 0, errNegativeOffset
	case i >= in.blocks.count || len(dst) == 0:
		return 0, io.EOF
	}
	var words [16]blockWord
	n, err := in.blockWords(i, words[:min(len(words), len(dst))])
	for k, w := range words[:n] {
		dst[k] = Block{
			Offset:     w.start,
			StoredSize: disk.StoredSize(w.word),
			Raw:        disk.StoredRaw(w.word),
			Size:       in.blockSizeAt(i + int64(k)),
		}
	}
	return n, err
}

// ReadBlock decodes a block that [Inode.BlocksAt], [Inode.Blocks] or [Inode.Fragment] gave, into dst, and returns how many
// bytes it has. dst must have room for the block, that of a fragment for [Reader.BlockSize] bytes. ReadBlock goes round the
// reader's cache, for callers who have their own.
func (r *Reader) ReadBlock(dst []byte, b Block) (int, error) {
	switch {
	case b.Size < 0 || b.Size > len(dst) || b.Size == 0 && len(dst) < r.BlockSize() || b.StoredSize < 0 || b.StoredSize > r.BlockSize():
		return 0, fs.ErrInvalid
	case b.Hole() && b.Size == 0:
		return 0, fs.ErrInvalid
	case b.Size == 0:
		return r.readFragment(dst[:r.BlockSize()], blockWord{b.Offset, disk.EncodeSize(b.StoredSize, b.Raw)})
	}
	return b.Size, r.readBlock(dst[:b.Size], blockWord{b.Offset, disk.EncodeSize(b.StoredSize, b.Raw)})
}

// HasXattrs reports whether any file of the image may have extended attributes.
func (r *Reader) HasXattrs() bool { return r.sb.XattrTable != disk.NoTable }
