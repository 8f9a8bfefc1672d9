package squashfs_test

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"

	"hpcimg/squashfs"
	"hpcimg/squashfs/internal/disk"
)

// compressZeros returns n zeros as a block of the given compressor.
func compressZeros(t *testing.T, comp string, n int) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser
	var err error
	switch comp {
	case "gzip":
		w = zlib.NewWriter(&buf)
	case "zstd":
		w, err = zstd.NewWriter(&buf)
	case "xz":
		w, err = xz.WriterConfig{CheckSum: xz.CRC32, DictCap: 1 << 20}.NewWriter(&buf)
	case "lz4":
		out := make([]byte, lz4.CompressBlockBound(n))
		k, err := lz4.CompressBlock(make([]byte, n), out, nil)
		if err != nil {
			t.Fatal(err)
		}
		return out[:k]
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(make([]byte, n))
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Blocks that decompress to more than a block stop there.
func TestBombs(t *testing.T) {
	for _, comp := range []string{"gzip", "zstd", "xz", "lz4"} {
		t.Run(comp+"/data", func(t *testing.T) {
			for _, n := range []int{131072, 131073, 16 << 20} {
				p := newPatcher(t, matrixTree(), "-noD -comp "+comp)
				in := p.inode("block")
				bomb := compressZeros(t, comp, n)
				if len(bomb) > 131072 {
					continue
				}
				copy(p.img[binary.LittleEndian.Uint32(in[fileStart:]):], bomb)
				le32(in, fileBlocks, disk.EncodeSize(len(bomb), false))
				before := allocated()
				err := readEverything(p.img)
				if took := allocated() - before; took > 48<<20 {
					t.Errorf("%d: %d bytes allocated", n, took)
				}
				if (n == 131072) != (err == nil) || err != nil && !errors.Is(err, squashfs.ErrFormat) {
					t.Errorf("%d: %v", n, err)
				}
			}
		})
		t.Run(comp+"/metadata", func(t *testing.T) {
			p := newPatcher(t, matrixTree(), "-comp "+comp)
			bomb := compressZeros(t, comp, 20_000)
			table := p.img[p.sb.InodeTable:p.sb.DirTable]
			if len(bomb)+disk.MetadataHeaderSize > len(table) {
				t.Fatalf("bomb of %d bytes in a table of %d", len(bomb), len(table))
			}
			binary.LittleEndian.PutUint16(table, disk.MetadataHeader(len(bomb), false))
			copy(table[disk.MetadataHeaderSize:], bomb)
			if err := readEverything(p.img); !errors.Is(err, squashfs.ErrFormat) {
				t.Errorf("Reader = %v", err)
			}
			if report := checkImage(t, p.img, nil); report.OK() {
				t.Error("Check is OK")
			}
		})
	}
}
