package inflate_test

import (
	"bytes"
	"compress/zlib"
	"io"
	"testing"

	"hpcimg/internal/inflate"
)

func FuzzDeflate(f *testing.F) {
	for _, src := range handmade() {
		f.Add(src)
	}
	for _, pack := range []string{"std1", "std6", "flushed", "klauspost9"} {
		for _, p := range plain() {
			f.Add(packers(f)[pack](p[:min(len(p), 1500)]))
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		var d inflate.Decoder
		compare(t, &d, src)
		compare(t, &d, append(src[:len(src):len(src)], make([]byte, 64)...))
	})
}

func FuzzZlib(f *testing.F) {
	for _, p := range plain() {
		f.Add(zlibbed(f, p[:min(len(p), 1500)]))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		const limit = 1 << 20
		var want []byte
		r, wantErr := zlib.NewReader(bytes.NewReader(src))
		if wantErr == nil {
			want, wantErr = io.ReadAll(io.LimitReader(r, limit))
		}
		if len(want) == limit || len(src) >= 2 && src[1]&0x20 != 0 {
			return // too much, or a preset dictionary, which only we always refuse
		}
		dst := make([]byte, len(want)+300)
		n, err := inflate.Zlib(dst, src)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("error %v, want %v", err, wantErr)
		}
		if err == nil && !bytes.Equal(dst[:n], want) {
			t.Fatalf("output of %d bytes differs from the %d wanted", n, len(want))
		}
	})
}

func FuzzGzip(f *testing.F) {
	for _, p := range plain() {
		p = p[:min(len(p), 1500)]
		f.Add(gzipped(f, p))
		f.Add(append(gzipped(f, p[:len(p)/2]), gzipped(f, p)...))
	}
	var z inflate.Reader
	f.Fuzz(func(t *testing.T, src []byte) {
		compareGzip(t, &z, src)
	})
}

// FuzzRoundTrip feeds the decoder valid streams of any kind, where random bytes would mostly end early.
func FuzzRoundTrip(f *testing.F) {
	for _, p := range plain() {
		f.Add(p[:min(len(p), 1500)], uint8(6), uint16(100))
	}
	names := []string{"flushed", "std-2", "std0", "std1", "std2", "std4", "std6", "std9", "klauspost1", "klauspost3", "klauspost5", "klauspost7", "klauspost9"}
	f.Fuzz(func(t *testing.T, p []byte, pack uint8, repeat uint16) {
		p = bytes.Repeat(p, 1+int(repeat)%8)
		src := packers(t)[names[int(pack)%len(names)]](p)
		var d inflate.Decoder
		got, n, err := guarded(t, &d, len(p), src)
		if err != nil || n != len(src) || !bytes.Equal(got, p) {
			t.Fatalf("%d bytes from %d of %d, error %v", len(got), n, len(src), err)
		}
		if len(src) > 0 {
			src[int(repeat)%len(src)] ^= 1 << (pack % 8)
			compare(t, &d, src)
		}
	})
}
