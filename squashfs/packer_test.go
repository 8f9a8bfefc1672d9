package squashfs_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// memory is an io.WriterAt that keeps what is written.
type memory struct {
	mu sync.Mutex
	b  []byte
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if end := int(off) + len(p); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func text(seed uint64, n int) []byte { return testtree.Text(seed, n) }

func noise(seed uint64, n int) []byte { return testtree.Bytes(seed, n) }

// packInputs are files that touch every way through a packer.
func packInputs(blockSize int) [][]byte {
	bs := blockSize
	files := [][]byte{
		nil, []byte("a"), text(1, 5000), text(2, bs), text(3, bs+1), text(4, 3*bs), text(5, 5*bs-7),
		make([]byte, bs), make([]byte, 4*bs+100), noise(6, bs/2), noise(7, 2*bs+5),
		text(2, bs), text(1, 5000), text(5, 5*bs-7), // duplicates
		append(make([]byte, 2*bs), text(8, bs)...),
		append(text(9, bs), make([]byte, bs)...),
	}
	for i := range 200 {
		files = append(files, text(uint64(i%150), 50*i+1))
	}
	return append(files, text(5, 5*bs-7)) // leaves a stale tail
}

func pack(t testing.TB, files [][]byte, opts *squashfs.PackerOptions) ([]byte, *squashfs.Pack, []*squashfs.Content) {
	t.Helper()
	var m memory
	p, err := squashfs.NewPacker(&m, 4096, opts)
	if err != nil {
		t.Fatal(err)
	}
	var contents []*squashfs.Content
	for _, f := range files {
		c, err := p.Add(t.Context(), bytes.NewReader(f), int64(len(f)))
		if err != nil {
			t.Fatal(err)
		}
		contents = append(contents, c)
	}
	pk, err := p.Close()
	if err != nil {
		t.Fatal(err)
	}
	return m.b, pk, contents
}

func TestPackerDeterministic(t *testing.T) {
	for _, c := range []squashfs.Compression{squashfs.CompressionGzip, squashfs.CompressionZstd, squashfs.CompressionLZ4, squashfs.CompressionNone} {
		for _, bs := range []int{4096, 128 << 10} {
			t.Run(fmt.Sprintf("comp=%v/block=%d", c, bs), func(t *testing.T) {
				files := packInputs(bs)
				opts := squashfs.PackerOptions{Compression: c, BlockSize: bs, Workers: 1}
				data, pk, contents := pack(t, files, &opts)
				for _, workers := range []int{2, 8} {
					opts.Workers = workers
					data2, pk2, contents2 := pack(t, files, &opts)
					if !bytes.Equal(data, data2) {
						t.Errorf("workers=%d: other bytes", workers)
					}
					if d := cmp.Diff(pk, pk2) + cmp.Diff(contents, contents2); d != "" {
						t.Errorf("workers=%d: %s", workers, d)
					}
				}
				checkContents(t, files, contents, pk, data)
			})
		}
	}
}

// contentDigest is what the documentation of Content says.
func contentDigest(b []byte, blockSize int) [sha256.Size]byte {
	if len(b) <= blockSize {
		return sha256.Sum256(b)
	}
	var sums []byte
	for len(b) > 0 {
		n := min(len(b), blockSize)
		sum := sha256.Sum256(b[:n])
		sums, b = append(sums, sum[:]...), b[n:]
	}
	return sha256.Sum256(sums)
}

func checkContents(t *testing.T, files [][]byte, contents []*squashfs.Content, pk *squashfs.Pack, data []byte) {
	t.Helper()
	bs := int64(pk.BlockSize)
	for i, c := range contents {
		if c.Size != int64(len(files[i])) || c.Digest != contentDigest(files[i], pk.BlockSize) {
			t.Errorf("file %d: wrong size or digest", i)
		}
		if c.Fragment >= 0 && c.Size%bs == 0 {
			t.Errorf("file %d of %d bytes has a fragment", i, c.Size)
		}
		if blocks := (c.Size + bs - 1) / bs; c.Fragment < 0 && int64(len(c.Blocks)) != blocks {
			t.Errorf("file %d: %d blocks, want %d", i, len(c.Blocks), blocks)
		}
		for _, w := range c.Blocks {
			if int64(w&^(1<<24)) > bs {
				t.Errorf("file %d: stored block of %#x", i, w)
			}
		}
	}
	if pk.Size%4096 != 0 {
		t.Errorf("size %d is not a multiple of 4096", pk.Size)
	}
	if tail := data[4096+pk.Size:]; len(bytes.Trim(tail, "\x00")) > 0 {
		t.Error("what duplicates have left behind the pack is not zeroed")
	}
}

func TestPackerDuplicates(t *testing.T) {
	small, block, large := text(1, 9999), text(2, 128<<10), text(3, 700<<10)
	for _, workers := range []int{1, 4} {
		files := [][]byte{small, block, large, small, block, large}
		_, pk, c := pack(t, files, &squashfs.PackerOptions{Workers: workers})
		for i := range 3 {
			if d := cmp.Diff(c[i], c[i+3]); d != "" {
				t.Errorf("workers=%d: copy of file %d is stored elsewhere:\n%s", workers, i, d)
			}
		}
		_, once, _ := pack(t, files[:3], nil)
		if pk.Size != once.Size {
			t.Errorf("workers=%d: pack of twice the same has %d bytes, of once %d", workers, pk.Size, once.Size)
		}
		_, twice, _ := pack(t, files, &squashfs.PackerOptions{Workers: workers, NoDuplicates: true})
		if twice.Size < once.Size*3/2 {
			t.Errorf("workers=%d: NoDuplicates has no effect", workers)
		}
	}
}

func TestPackerFragmentGroups(t *testing.T) {
	var files [][]byte
	for i := range 100 {
		files = append(files, noise(uint64(i), 20<<10))
	}
	_, pk, _ := pack(t, files, nil)
	if len(pk.Fragments) != 34 {
		t.Errorf("%d fragment blocks, want 34 with three files each", len(pk.Fragments))
	}
	for _, f := range pk.Fragments {
		if n := f.Word &^ (1 << 24); n > 64<<10 {
			t.Errorf("fragment block of %d bytes", n)
		}
	}
	_, pk, c := pack(t, files, &squashfs.PackerOptions{NoFragments: true})
	if len(pk.Fragments) != 0 || c[0].Fragment != -1 {
		t.Error("NoFragments has no effect")
	}
}

func TestPackerSharedPool(t *testing.T) {
	pool := squashfs.NewPool(2)
	defer pool.Close()
	files := packInputs(4096)
	want, _, _ := pack(t, files, &squashfs.PackerOptions{BlockSize: 4096, Workers: 1})
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			got, _, _ := pack(t, files, &squashfs.PackerOptions{BlockSize: 4096, Pool: pool})
			if !bytes.Equal(got, want) {
				t.Error("other bytes with a shared pool")
			}
		})
	}
	wg.Wait()
}

// One goroutine that feeds many packers in turn must not run into the budget
// of the pool.
func TestPackerInterleaved(t *testing.T) {
	pool := squashfs.NewPool(1)
	defer pool.Close()
	packers := make([]*squashfs.Packer, 40)
	for i := range packers {
		p, err := squashfs.NewPacker(&memory{}, 0, &squashfs.PackerOptions{BlockSize: 1 << 20, Pool: pool})
		if err != nil {
			t.Fatal(err)
		}
		packers[i] = p
	}
	data := text(1, 60<<10)
	for n := range 12 {
		for _, p := range packers {
			size := []int{1 << 10, 31 << 10, 60 << 10}[n%3]
			if _, err := p.Add(t.Context(), bytes.NewReader(data), int64(size)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, p := range packers {
		if _, err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

var errDiskFull = errors.New("disk full")

type fullDisk struct{ room int64 }

func (d fullDisk) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > d.room {
		return 0, errDiskFull
	}
	return len(p), nil
}

func TestPackerErrors(t *testing.T) {
	for _, workers := range []int{1, 4} {
		for _, size := range []int{100, 40 << 10, 1 << 20} {
			p, _ := squashfs.NewPacker(&memory{}, 0, &squashfs.PackerOptions{Workers: workers})
			if _, err := p.Add(t.Context(), bytes.NewReader(text(1, size-1)), int64(size)); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("short reader: %v", err)
			}
			if _, err := p.Add(t.Context(), strings.NewReader("x"), 1); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("next Add: %v", err)
			}
			if _, err := p.Close(); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("Close: %v", err)
			}
		}
		p, _ := squashfs.NewPacker(fullDisk{100 << 10}, 0, &squashfs.PackerOptions{Workers: workers})
		var err error
		for i := 0; i < 1000 && err == nil; i++ {
			_, err = p.Add(t.Context(), bytes.NewReader(noise(uint64(i), 200<<10)), 200<<10)
		}
		if !errors.Is(err, errDiskFull) {
			t.Errorf("full disk: Add: %v", err)
		}
		if _, err = p.Close(); !errors.Is(err, errDiskFull) {
			t.Errorf("full disk: Close: %v", err)
		}

		ctx, cancel := context.WithCancel(t.Context())
		p, _ = squashfs.NewPacker(&memory{}, 0, &squashfs.PackerOptions{Workers: workers})
		cancel()
		if _, err := p.Add(ctx, strings.NewReader("x"), 1); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if _, err := p.Close(); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: Close: %v", err)
		}
	}
}

func TestPackerOptions(t *testing.T) {
	for _, o := range []squashfs.PackerOptions{
		{BlockSize: 2048},
		{BlockSize: 2 << 20},
		{BlockSize: 100000},
		{Level: 10},
		{Level: -1},
		{Compression: squashfs.CompressionNone, Level: 1},
		{Compression: 99},
		{Workers: -1},
	} {
		if _, err := squashfs.NewPacker(&memory{}, 0, &o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
	for _, c := range []squashfs.Compression{squashfs.CompressionXZ, squashfs.CompressionLZO, squashfs.CompressionLZMA} {
		_, err := squashfs.NewPacker(&memory{}, 0, &squashfs.PackerOptions{Compression: c})
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%v: %v", c, err)
		}
	}
}
