package inflate_test

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"hash/adler32"
	"io"
	"testing"

	"hpcimg/internal/inflate"
)

// reference inflates with compress/flate, up to a limit.
func reference(src []byte, limit int) (out []byte, consumed int, err error) {
	r := bytes.NewReader(src)
	out, err = io.ReadAll(io.LimitReader(flate.NewReader(r), int64(limit)))
	return out, len(src) - r.Len(), err
}

// guarded inflates into a slice between two fences, the input cut to its capacity, and fails if a fence is touched.
func guarded(t testing.TB, d *inflate.Decoder, size int, src []byte) ([]byte, int, error) {
	t.Helper()
	const fence = 64
	buf := bytes.Repeat([]byte{0xa5}, size+2*fence)
	src = append(make([]byte, 0, len(src)), src...)
	n, consumed, err := d.Deflate(buf[fence:fence+size:fence+size], src)
	for i := range fence {
		if buf[i] != 0xa5 || buf[fence+size+i] != 0xa5 {
			t.Fatalf("wrote outside of dst, %d bytes of %d", n, size)
		}
	}
	return buf[fence : fence+n], consumed, err
}

// compare holds Deflate against compress/flate: same acceptance, same output, same end, and exact bounds.
func compare(t testing.TB, d *inflate.Decoder, src []byte) {
	t.Helper()
	const limit = 1 << 20
	want, consumed, wantErr := reference(src, limit)
	if len(want) == limit {
		return
	}
	got, n, err := guarded(t, d, len(want), src)
	if (err == nil) != (wantErr == nil) {
		// An error of the stream may hide behind the bound when there is no room for the last symbol before it.
		if !errors.Is(err, inflate.ErrTooLarge) || wantErr == nil {
			t.Fatalf("error %v, want %v", err, wantErr)
		}
	}
	if !bytes.HasPrefix(want, got) || err == nil && len(got) != len(want) {
		t.Fatalf("output of %d bytes differs from the %d wanted", len(got), len(want))
	}
	if err == nil && n != consumed {
		t.Fatalf("consumed %d bytes, want %d", n, consumed)
	}
	got, _, err = guarded(t, d, len(want)+1000, src)
	if (err == nil) != (wantErr == nil) || errors.Is(err, inflate.ErrTooLarge) {
		t.Fatalf("error %v with room to spare, want %v", err, wantErr)
	}
	if !bytes.HasPrefix(got, want) && wantErr == nil {
		t.Fatalf("output of %d bytes with room to spare differs from the %d wanted", len(got), len(want))
	}
	if err != nil {
		e, ok := errors.AsType[*inflate.CorruptError](err)
		if !ok || !errors.Is(err, inflate.ErrCorrupt) || e.Offset < 0 || e.Offset > int64(len(src)) {
			t.Fatalf("error %#v", err)
		}
	}
	if wantErr == nil && len(want) > 0 {
		if _, _, err := guarded(t, d, len(want)-1, src); !errors.Is(err, inflate.ErrTooLarge) {
			t.Fatalf("a byte too few: error %v", err)
		}
	}
}

func TestDeflateCompressed(t *testing.T) {
	var d inflate.Decoder
	for packName, pack := range packers(t) {
		for name, p := range plain() {
			t.Run(packName+"/"+name, func(t *testing.T) {
				src := pack(p)
				got, n, err := guarded(t, &d, len(p), src)
				if err != nil || n != len(src) || !bytes.Equal(got, p) {
					t.Fatalf("%d bytes from %d of %d, error %v", len(got), n, len(src), err)
				}
				compare(t, &d, append(src, "and more"...))
			})
		}
	}
}

func TestDeflateHandmade(t *testing.T) {
	var d inflate.Decoder
	for name, src := range handmade() {
		t.Run(name, func(t *testing.T) {
			compare(t, &d, src)
			// The same with input to spare, so that the fast loop sees it.
			compare(t, &d, append(src, make([]byte, 100)...))
		})
	}
}

// TestHandmadeReasons makes sure that the streams are wrong in the way they mean to be.
func TestHandmadeReasons(t *testing.T) {
	streams := handmade()
	for _, tt := range []struct{ name, want string }{
		{"reserved type", "inflate: offset 0: invalid block type"},
		{"stored, bad complement", "inflate: offset 1: stored block's length differs from its complement"},
		{"stored, cut", "inflate: offset 8: unexpected EOF"},
		{"nothing", "inflate: offset 0: unexpected EOF"},
		{"287 literal codes", "too many codes"},
		{"31 distance codes", "too many codes"},
		{"oversubscribed", "invalid code lengths"},
		{"incomplete", "invalid code lengths"},
		{"single two-bit code", "invalid code lengths"},
		{"repeat of nothing", "invalid code length repeat"},
		{"repeat past the end", "invalid code length repeat"},
		{"empty code of lengths", "unassigned code"},
		{"no literal code", "unassigned code"},
		{"its other half", "unassigned code"},
		{"no distance code, used", "unassigned code"},
		{"distance symbol 30", "unassigned code"},
		{"length symbol 286", "unassigned code"},
		{"distance before start", "distance beyond"},
		{"too far", "distance beyond"},
		{"furthest", ""},
		{"length 258 by 284", ""},
		{"single distance code", ""},
		{"no distance code", ""},
		{"only the end", ""},
		{"longest codes, one path", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src, ok := streams[tt.name]
			if !ok {
				t.Fatal("no such stream")
			}
			_, _, err := inflate.Deflate(make([]byte, 1<<20), src)
			switch {
			case tt.want == "" && err != nil:
				t.Fatal(err)
			case tt.want != "" && (err == nil || !bytes.Contains([]byte(err.Error()), []byte(tt.want))):
				t.Fatalf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func TestDeflateDamaged(t *testing.T) {
	var d inflate.Decoder
	p := plain()
	for _, name := range []string{"text", "skewed", "periods"} {
		for _, pack := range []string{"std6", "flushed"} {
			src := packers(t)[pack](p[name][:600])
			for cut := range src {
				compare(t, &d, src[:cut])
				if _, _, err := d.Deflate(make([]byte, 4000), src[:cut]); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("%s, %s, %d of %d bytes: %v", name, pack, cut, len(src), err)
				}
			}
			for bit := range len(src) * 8 {
				src[bit/8] ^= 1 << (bit % 8)
				compare(t, &d, src)
				src[bit/8] ^= 1 << (bit % 8)
			}
		}
	}
}

func TestZlib(t *testing.T) {
	for name, p := range plain() {
		t.Run(name, func(t *testing.T) {
			src := zlibbed(t, p)
			dst := make([]byte, len(p)+5)
			for _, tail := range []string{"", "x", "trailing bytes are left alone"} {
				n, err := inflate.Zlib(dst, append(src, tail...))
				if err != nil || !bytes.Equal(dst[:n], p) {
					t.Fatalf("%d bytes, error %v", n, err)
				}
			}
			for i := 1; i <= 4; i++ {
				src[len(src)-i] ^= 4
				if _, err := inflate.Zlib(dst, src); !errors.Is(err, inflate.ErrCorrupt) {
					t.Fatalf("checksum wrong: error %v", err)
				}
				src[len(src)-i] ^= 4
				if _, err := inflate.Zlib(dst, src[:len(src)-i]); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("checksum cut: error %v", err)
				}
			}
		})
	}
	for _, tt := range []struct{ name, src, want string }{
		{"nothing", "", "inflate: offset 0: unexpected EOF"},
		{"one byte", "\x78", "inflate: offset 1: unexpected EOF"},
		{"method", "\x79\x9c123", "inflate: offset 0: zlib: invalid header"},
		{"window", "\x88\x1c123", "inflate: offset 0: zlib: invalid header"},
		{"check", "\x78\x9d123", "inflate: offset 0: zlib: invalid header"},
		{"dictionary", "\x78\xbb\x00\x00\x00\x01123", "inflate: offset 0: zlib: preset dictionary"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := inflate.Zlib(nil, []byte(tt.src)); err == nil || err.Error() != tt.want {
				t.Fatalf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func TestZlibAdler(t *testing.T) {
	p := bytes.Repeat([]byte{0xff}, 20_000)
	for n := range 2000 {
		checkAdler(t, p[:n])
	}
	checkAdler(t, p)
	checkAdler(t, plain()["noise"])
}

// checkAdler sends p through a stored block with the checksum that hash/adler32 gives.
func checkAdler(t *testing.T, p []byte) {
	t.Helper()
	src := []byte{0x78, 0x01}
	rest := p
	for len(rest) > 0 {
		n := min(len(rest), 65535)
		src = append(src, 0, byte(n), byte(n>>8), ^byte(n), ^byte(n>>8))
		src = append(src, rest[:n]...)
		rest = rest[n:]
	}
	src = append(src, 3, 0)
	sum := adler32.Checksum(p)
	src = append(src, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
	dst := make([]byte, len(p))
	if n, err := inflate.Zlib(dst, src); err != nil || n != len(p) {
		t.Fatalf("%d bytes: %v", len(p), err)
	}
}

func TestDecoderAllocations(t *testing.T) {
	src := zlibbed(t, plain()["text"])
	dst := make([]byte, 1<<20)
	var d inflate.Decoder
	if n := testing.AllocsPerRun(10, func() {
		if _, err := d.Zlib(dst, src); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func ExampleZlib() {
	block := []byte("x\x9c\xcaH\xcd\xc9\xc9W(\xcf/\xcaI\x01\x04\x00\x00\xff\xff\x1a\x0b\x04]")
	data := make([]byte, 128<<10) // a block is never larger
	n, err := inflate.Zlib(data, block)
	fmt.Printf("%s %v\n", data[:n], err)
	_, err = inflate.Zlib(data, block[:9])
	fmt.Println(err)
	// Output:
	// hello world <nil>
	// inflate: offset 9: unexpected EOF
}
