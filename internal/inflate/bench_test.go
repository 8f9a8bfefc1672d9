package inflate_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"
	kzlib "github.com/klauspost/compress/zlib"

	"hpcimg/internal/inflate"
)

// systemTar is a tar of programs, libraries and documents of the machine at hand, as a Debian layer holds them.
var systemTar = sync.OnceValue(func() []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, from := range []struct {
		root string
		size int64
	}{{"/usr/bin", 12 << 20}, {"/usr/lib/x86_64-linux-gnu", 12 << 20}, {"/usr/share", 16 << 20}} {
		rest := from.size
		_ = filepath.WalkDir(from.root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return nil
			}
			data, err := os.ReadFile(path)
			if err != nil || len(data) > 4<<20 {
				return nil
			}
			if rest -= int64(len(data)); rest < 0 {
				return fs.SkipAll
			}
			_ = w.WriteHeader(&tar.Header{Name: path[1:], Mode: 0o644, Size: int64(len(data))})
			_, _ = w.Write(data)
			return nil
		})
	}
	_ = w.Close()
	return buf.Bytes()
})

func benchTar(b *testing.B) []byte {
	data := systemTar()
	if len(data) < 8<<20 {
		b.Fatal("the benchmark is made of the files in /usr, and this machine has too few")
	}
	return data
}

var layer = sync.OnceValue(func() []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf) // level 6
	_, _ = w.Write(systemTar())
	_ = w.Close()
	return buf.Bytes()
})

func BenchmarkGzip(b *testing.B) {
	data := benchTar(b)
	packed := layer()
	run := func(name string, pass func(r io.Reader) (int64, error)) {
		b.Run("impl="+name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				n, err := pass(bytes.NewReader(packed))
				if err != nil || n != int64(len(data)) {
					b.Fatal(n, err)
				}
			}
		})
	}
	ours := new(inflate.Reader)
	run("hpcimg", func(r io.Reader) (int64, error) {
		if err := ours.Reset(r); err != nil {
			return 0, err
		}
		return ours.WriteTo(io.Discard)
	})
	klauspost := new(kgzip.Reader)
	run("klauspost", func(r io.Reader) (int64, error) {
		if err := klauspost.Reset(r); err != nil {
			return 0, err
		}
		return klauspost.WriteTo(struct{ io.Writer }{io.Discard})
	})
	std := new(gzip.Reader)
	run("std", func(r io.Reader) (int64, error) {
		if err := std.Reset(r); err != nil {
			return 0, err
		}
		return io.Copy(struct{ io.Writer }{io.Discard}, std)
	})
}

func BenchmarkZlib(b *testing.B) {
	const size = 128 << 10
	data := benchTar(b)
	data = data[:len(data)/size*size]
	var blocks [][]byte
	for i := 0; i < len(data); i += size {
		var buf bytes.Buffer
		w, _ := kzlib.NewWriterLevel(&buf, 6)
		_, _ = w.Write(data[i : i+size])
		_ = w.Close()
		if buf.Len() < size { // squashfs stores the others
			blocks = append(blocks, buf.Bytes())
		}
	}
	dst := make([]byte, size)
	run := func(name string, pass func(block []byte) (int, error)) {
		b.Run("impl="+name, func(b *testing.B) {
			b.SetBytes(int64(len(blocks) * size))
			b.ReportAllocs()
			for b.Loop() {
				for _, block := range blocks {
					if n, err := pass(block); n != size || err != nil {
						b.Fatal(n, err)
					}
				}
			}
		})
	}
	var d inflate.Decoder
	run("hpcimg", func(block []byte) (int, error) { return d.Zlib(dst, block) })
	var in bytes.Reader
	klauspost, _ := kzlib.NewReader(bytes.NewReader(blocks[0]))
	run("klauspost", func(block []byte) (int, error) {
		in.Reset(block)
		if err := klauspost.(kzlib.Resetter).Reset(&in, nil); err != nil {
			return 0, err
		}
		return readBlock(klauspost, dst)
	})
	std, _ := zlib.NewReader(bytes.NewReader(blocks[0]))
	run("std", func(block []byte) (int, error) {
		in.Reset(block)
		if err := std.(zlib.Resetter).Reset(&in, nil); err != nil {
			return 0, err
		}
		return readBlock(std, dst)
	})
}

// readBlock reads a block of known size and makes r verify its checksum.
func readBlock(r io.Reader, dst []byte) (int, error) {
	n, err := io.ReadFull(r, dst)
	if err != nil {
		return n, err
	}
	if more, err := r.Read(dst[:1]); more != 0 || err != io.EOF {
		return n + more, err
	}
	return n, nil
}
