package disk_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math"
	"testing"

	"hpcimg/image/cache/internal/disk"
)

// encode makes a file.
func encode(t testing.TB, f disk.Footer, data, meta []byte) []byte {
	t.Helper()
	f.Size = int64(len(data))
	var sums []byte
	for off := 0; off < len(data); off += disk.ChunkSize {
		sum := sha256.Sum256(data[off:min(off+disk.ChunkSize, len(data))])
		sums = append(sums, sum[:]...)
	}
	b := bytes.NewBuffer(bytes.Clone(data))
	if err := disk.WriteTail(b, f, disk.Tail{Meta: meta, Sums: sums}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// decode reads a file that is in memory.
func decode(b []byte) (disk.Footer, disk.Tail, error) {
	if len(b) < disk.FooterSize {
		return disk.Footer{}, disk.Tail{}, disk.ErrFormat
	}
	f, err := disk.ParseFooter(b[len(b)-disk.FooterSize:], int64(len(b)))
	if err != nil {
		return f, disk.Tail{}, err
	}
	t, err := disk.ParseTail(f, b[f.Size:])
	return f, t, err
}

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 4096, disk.ChunkSize, disk.ChunkSize + 1} {
		for _, m := range []int{0, 1, 5000} {
			data, meta := bytes.Repeat([]byte{7}, n), bytes.Repeat([]byte{9}, m)
			b := encode(t, disk.Footer{Kind: "segment", Key: "some-key"}, data, meta)
			f, tail, err := decode(b)
			if err != nil {
				t.Fatal(err)
			}
			if f.Kind != "segment" || f.Key != "some-key" || f.Size != int64(n) || f.MetaSize != int64(m) || !bytes.Equal(tail.Meta, meta) {
				t.Errorf("%d, %d: %+v", n, m, f)
			}
			if int64(len(tail.Sums)) != 32*disk.Chunks(f.Size) || f.Size+f.TailSize() != int64(len(b)) || (f.Size+disk.Padding(f.Size))%disk.Align != 0 {
				t.Errorf("%d, %d: sizes", n, m)
			}
		}
	}
}

// TestEveryBitCounts flips each bit behind the data.
func TestEveryBitCounts(t *testing.T) {
	b := encode(t, disk.Footer{Kind: "index", Key: "some-key"}, make([]byte, 4000), []byte("meta"))
	for i := 4000; i < len(b); i++ {
		for bit := range 8 {
			b[i] ^= 1 << bit
			if _, _, err := decode(b); !errors.Is(err, disk.ErrFormat) {
				t.Fatalf("bit %d of byte %d: %v", bit, i, err)
			}
			b[i] ^= 1 << bit
		}
	}
	for i := range b {
		if _, _, err := decode(b[:i]); !errors.Is(err, disk.ErrFormat) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
}

func TestLimits(t *testing.T) {
	for _, f := range []disk.Footer{
		{Size: -1},
		{Size: math.MaxInt64},
		{Key: string(make([]byte, disk.MaxKey+1))},
		{Kind: string(make([]byte, disk.MaxKind+1))},
		{Size: 1}, // without a sum
	} {
		if err := disk.WriteTail(new(bytes.Buffer), f, disk.Tail{}); !errors.Is(err, disk.ErrFormat) {
			t.Errorf("%+v: %v", f, err)
		}
		if _, err := disk.ParseTail(f, nil); !errors.Is(err, disk.ErrFormat) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

// FuzzTail wants whatever is accepted as a file to be the one that would be written.
func FuzzTail(f *testing.F) {
	f.Add(encode(f, disk.Footer{Kind: "segment", Key: "some-key"}, []byte("data"), []byte("meta")), true)
	f.Add(encode(f, disk.Footer{}, nil, nil), true)
	f.Add(encode(f, disk.Footer{Kind: "index"}, make([]byte, 5000), nil), false)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend && len(b) >= disk.FooterSize { // so that the fuzzer need not find a SHA-256
			if foot, err := disk.ParseFooter(b[len(b)-disk.FooterSize:], int64(len(b))); err == nil {
				sum := sha256.Sum256(b[foot.Size : len(b)-32])
				copy(b[len(b)-32:], sum[:])
			}
		}
		foot, tail, err := decode(b)
		if err != nil {
			if !errors.Is(err, disk.ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		again := bytes.NewBuffer(bytes.Clone(b[:foot.Size]))
		if err := disk.WriteTail(again, foot, tail); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.Bytes(), b) {
			t.Error("another encoding of the same entry was accepted")
		}
	})
}
