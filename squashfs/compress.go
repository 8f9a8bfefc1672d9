package squashfs

import (
	"fmt"
	"strings"

	"hpcimg/squashfs/internal/disk"
)

// Compression names a compressor. The zero value is gzip, which every kernel
// in use can mount.
type Compression int

// Compressors. XZ is read but not written. LZO and LZMA exist in old images;
// this package knows their names but neither writes nor reads them.
const (
	CompressionGzip Compression = iota
	CompressionZstd
	CompressionLZ4
	CompressionXZ
	CompressionNone // blocks stored as they are; the superblock says gzip
	CompressionLZO
	CompressionLZMA
)

func compressionNames() [7]string {
	return [7]string{"gzip", "zstd", "lz4", "xz", "none", "lzo", "lzma"}
}

// String returns the name that [ParseCompression] takes.
func (c Compression) String() string {
	names := compressionNames()
	if c < 0 || int(c) >= len(names) {
		return fmt.Sprintf("Compression(%d)", int(c))
	}
	return names[c]
}

// ParseCompression returns the compressor of that name: gzip, zstd, lz4, xz,
// none, lzo or lzma. Case does not matter.
func ParseCompression(s string) (Compression, error) {
	for i, name := range compressionNames() {
		if strings.EqualFold(s, name) {
			return Compression(i), nil
		}
	}
	return 0, fmt.Errorf("squashfs: unknown compression %q", s)
}

// compressorID returns the id that stands in the superblock. An image without
// compression names gzip, which needs no options and is known to all readers.
func (c Compression) compressorID() uint16 {
	switch c {
	case CompressionZstd:
		return disk.CompressorZstd
	case CompressionLZ4:
		return disk.CompressorLZ4
	case CompressionXZ:
		return disk.CompressorXZ
	case CompressionLZO:
		return disk.CompressorLZO
	case CompressionLZMA:
		return disk.CompressorLZMA
	}
	return disk.CompressorGzip
}

// compressionByID is the inverse of compressorID.
func compressionByID(id uint16) (Compression, bool) {
	for c := CompressionGzip; c <= CompressionLZMA; c++ {
		if c != CompressionNone && c.compressorID() == id {
			return c, true
		}
	}
	return 0, false
}
