package inflate_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"

	"hpcimg/internal/inflate"
)

// readers are the ways in which input may arrive.
func readers(src []byte) map[string]io.Reader {
	return map[string]io.Reader{
		"at once":        bytes.NewReader(src),
		"half":           iotest.HalfReader(bytes.NewReader(src)),
		"byte by byte":   iotest.OneByteReader(bytes.NewReader(src)),
		"data and error": iotest.DataErrReader(bytes.NewReader(src)),
		"17 bytes":       &stutter{r: bytes.NewReader(src), n: 17},
	}
}

// A stutter returns n bytes at a time, and nothing now and then.
type stutter struct {
	r    io.Reader
	n, i int
}

func (s *stutter) Read(p []byte) (int, error) {
	if s.i++; s.i%3 == 0 {
		return 0, nil
	}
	return s.r.Read(p[:min(len(p), s.n)])
}

// readAll reads the stream through Read or WriteTo.
func readAll(z *inflate.Reader, r io.Reader, writeTo bool) ([]byte, error) {
	if err := z.Reset(r); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	if writeTo {
		n, err := z.WriteTo(&buf)
		if n != int64(buf.Len()) {
			return nil, fmt.Errorf("wrote %d, said %d", buf.Len(), n)
		}
		return buf.Bytes(), err
	}
	_, err := io.Copy(&buf, struct{ io.Reader }{z})
	return buf.Bytes(), err
}

// compareGzip holds Reader against compress/gzip, where every way of reading must agree.
func compareGzip(t testing.TB, z *inflate.Reader, src []byte) {
	t.Helper()
	var want []byte
	r, wantErr := gzip.NewReader(bytes.NewReader(src))
	if wantErr == nil {
		want, wantErr = io.ReadAll(io.LimitReader(r, 512<<10))
		if len(want) == 512<<10 {
			return
		}
	}
	var first string
	for _, writeTo := range []bool{false, true} {
		for name, r := range readers(src) {
			got, err := readAll(z, r, writeTo)
			if (err == nil) != (wantErr == nil) {
				t.Fatalf("%s: error %v, want %v", name, err, wantErr)
			}
			if err == nil && !bytes.Equal(got, want) || !bytes.HasPrefix(got, want) && !bytes.HasPrefix(want, got) {
				t.Fatalf("%s: output of %d bytes differs from the %d wanted", name, len(got), len(want))
			}
			if err == nil {
				continue
			}
			e, ok := errors.AsType[*inflate.CorruptError](err)
			if !ok || e.Offset < 0 || e.Offset > int64(len(src)) {
				t.Fatalf("%s: error %#v", name, err)
			}
			if first == "" {
				first = err.Error()
			}
			if err.Error() != first {
				t.Fatalf("%s: error %v, elsewhere %s", name, err, first)
			}
		}
	}
}

func TestGzip(t *testing.T) {
	var z inflate.Reader
	for name, p := range plain() {
		t.Run(name, func(t *testing.T) {
			src := gzipped(t, p)
			compareGzip(t, &z, src)
			got, err := readAll(&z, bytes.NewReader(src), true)
			if err != nil || !bytes.Equal(got, p) {
				t.Fatalf("%d bytes, error %v", len(got), err)
			}
		})
	}
}

func TestGzipLarge(t *testing.T) {
	// Larger than every buffer, with matches across the pieces.
	var p []byte
	for len(p) < 5<<20 {
		for _, name := range []string{"text", "far", "noise", "zeros", "periods"} {
			p = append(p, plain()[name]...)
		}
	}
	src := gzipped(t, p)
	var z inflate.Reader
	for name, r := range readers(src) {
		got, err := readAll(&z, r, true)
		if err != nil || !bytes.Equal(got, p) {
			t.Fatalf("%s: %d bytes, error %v", name, len(got), err)
		}
	}
}

func TestGzipMembers(t *testing.T) {
	var z inflate.Reader
	empty, one, text := gzipped(t, nil), gzipped(t, []byte("one")), gzipped(t, plain()["text"])
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	var many [][]byte
	for i := range 300 {
		many = append(many, gzipped(t, plain()["text"][:i*10]))
	}
	for name, src := range map[string][]byte{
		"empty":           empty,
		"empty, twice":    join(empty, empty),
		"three":           join(one, text, one),
		"with empty ones": join(empty, one, empty, empty, text, empty),
		"many":            join(many...),
		"zeros after":     join(one, make([]byte, 512)),
		"a zero after":    join(one, []byte{0}),
		"garbage after":   join(one, []byte("garbage, more than a header")),
		"header after":    join(one, text[:10]),
		"cut header":      join(one, text[:6]),
	} {
		t.Run(name, func(t *testing.T) { compareGzip(t, &z, src) })
	}
	// A member must not reach back into the one before.
	back := append([]byte(nil), empty[:10]...)
	back = append(back, new(bitWriter).bits(1, 1).bits(1, 2).lit(257).code(0, 5).lit(256).bits(0, 200).out...)
	_, err := readAll(&z, bytes.NewReader(join(text, back)), true)
	if e, ok := errors.AsType[*inflate.CorruptError](err); !ok || e.Offset < int64(len(text)) {
		t.Fatalf("error %v", err)
	}
}

func TestGzipHeaders(t *testing.T) {
	var z inflate.Reader
	body := gzipped(t, []byte("body"))[10:]
	header := func(flags byte, rest ...string) []byte {
		src := []byte{0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 255}
		for _, s := range rest {
			src = append(src, s...)
		}
		return append(src, body...)
	}
	long := string(bytes.Repeat([]byte("n"), 511))
	huge := string(bytes.Repeat([]byte("e"), 65535))
	var named bytes.Buffer
	w := gzip.NewWriter(&named)
	w.Name, w.Comment, w.Extra = "name", "comment", []byte("extra")
	for name, src := range map[string][]byte{
		"written":         finish(t, &named, w, []byte("body")),
		"extra":           header(4, "\x03\x00abc"),
		"largest extra":   header(4, "\xff\xff", huge),
		"name":            header(8, "name\x00"),
		"longest name":    header(8, long, "\x00"),
		"too long a name": header(8, long, "n\x00"),
		"comment":         header(16, "comment\x00"),
		"all":             header(4|8|16, "\x00\x00", "\x00", "\x00"),
		"text, reserved":  header(1 | 0xe0),
		"magic":           append([]byte{0x1f, 0x8c}, body...),
		"method":          append([]byte{0x1f, 0x8b, 7, 0, 0, 0, 0, 0, 0, 0}, body...),
		"nothing":         {},
	} {
		t.Run(name, func(t *testing.T) {
			compareGzip(t, &z, src)
			for cut := 0; cut < len(src); cut += 1 + len(src)/200 {
				compareGzip(t, &z, src[:cut])
			}
		})
	}
	for i := range 1 << 16 { // one of them is right
		src := header(2, string([]byte{byte(i), byte(i >> 8)}))
		if err := z.Reset(bytes.NewReader(src)); err == nil {
			compareGzip(t, &z, src)
			return
		}
	}
	t.Error("no header checksum accepted")
}

func TestGzipDamaged(t *testing.T) {
	var z inflate.Reader
	src := append(gzipped(t, plain()["text"][:300]), gzipped(t, []byte("second"))...)
	for cut := range src {
		compareGzip(t, &z, src[:cut])
		_, err := readAll(&z, bytes.NewReader(src[:cut]), true)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d bytes: error %v", cut, err)
		}
	}
	for bit := range len(src) * 8 {
		src[bit/8] ^= 1 << (bit % 8)
		compareGzip(t, &z, src)
		src[bit/8] ^= 1 << (bit % 8)
	}
}

func TestGzipReadErrors(t *testing.T) {
	src := gzipped(t, plain()["text"])
	broken := errors.New("broken")
	_, err := inflate.NewGzipReader(iotest.ErrReader(broken))
	if !errors.Is(err, broken) {
		t.Fatalf("error %v", err)
	}
	z, err := inflate.NewGzipReader(io.MultiReader(bytes.NewReader(src[:len(src)/2]), iotest.ErrReader(broken)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(z)
	if !errors.Is(err, broken) || errors.Is(err, inflate.ErrCorrupt) || !bytes.HasPrefix(plain()["text"], got) || len(got) == 0 {
		t.Fatalf("%d bytes, error %v", len(got), err)
	}
	if err := z.Reset(&stutter{r: bytes.NewReader(src), i: 2, n: 0}); !errors.Is(err, io.ErrNoProgress) {
		t.Fatalf("error %v", err)
	}
	if err := z.Reset(nil); err != nil {
		t.Fatal(err)
	}
	if n, err := z.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("%d bytes, error %v", n, err)
	}
}

func TestGzipWriteErrors(t *testing.T) {
	src := gzipped(t, plain()["text"])
	z, err := inflate.NewGzipReader(bytes.NewReader(src))
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	full := errors.New("full")
	n, err := z.WriteTo(writerFunc(func(p []byte) (int, error) { buf.Write(p[:10]); return 10, full }))
	if n != 10 || !errors.Is(err, full) {
		t.Fatalf("%d bytes, error %v", n, err)
	}
	n, err = z.WriteTo(writerFunc(func(p []byte) (int, error) { buf.Write(p[:20]); return 20, nil }))
	if n != 20 || !errors.Is(err, io.ErrShortWrite) {
		t.Fatalf("%d bytes, error %v", n, err)
	}
	// Nothing is lost: what was not taken comes next.
	if _, err := z.WriteTo(&buf); err != nil || !bytes.Equal(buf.Bytes(), plain()["text"]) {
		t.Fatalf("%d bytes, error %v", buf.Len(), err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func ExampleReader() {
	var buf bytes.Buffer
	for _, s := range []string{"one, ", "two\n"} {
		w := gzip.NewWriter(&buf)
		_, _ = io.WriteString(w, s)
		_ = w.Close()
	}
	z, err := inflate.NewGzipReader(&buf)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = io.Copy(writerFunc(func(p []byte) (int, error) {
		fmt.Printf("%q\n", p)
		return len(p), nil
	}), z)
	fmt.Println(err)
	// Output:
	// "one, two\n"
	// <nil>
}
