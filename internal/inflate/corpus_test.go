package inflate_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	kflate "github.com/klauspost/compress/flate"
)

// plain holds inputs that lead compressors to every kind of block, length and distance.
var plain = sync.OnceValue(func() map[string][]byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 200_000)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	var text bytes.Buffer
	for i := range 6000 {
		fmt.Fprintf(&text, "%d: Package %x, version %d.%d\n", i, rnd.IntN(300), rnd.IntN(9), rnd.IntN(99))
	}
	skewed := make([]byte, 150_000) // some very long codes
	for i := range skewed {
		v := 0
		for v < 255 && rnd.IntN(3) > 0 {
			v++
		}
		skewed[i] = byte(v)
	}
	var periods bytes.Buffer // short distances, all lengths
	for p := 1; p <= 40; p++ {
		unit := noise[p*50 : p*50+p]
		for n := 3; n <= 300; n += 1 + n/8 {
			for range (n + p - 1) / p {
				periods.Write(unit)
			}
			periods.WriteByte(byte(n))
		}
	}
	var far bytes.Buffer // distances about the largest
	far.Write(noise[:32768])
	for i := range 60 {
		at := far.Len() - 32768 + i%3
		far.Write(far.Bytes()[at : at+200+i])
	}
	return map[string][]byte{
		"empty": {}, "one": {7}, "short": []byte("hello, hello"), "noise": noise, "text": text.Bytes(),
		"skewed": skewed, "periods": periods.Bytes(), "far": far.Bytes(), "zeros": make([]byte, 300_000),
		"mixed": bytes.Join([][]byte{text.Bytes()[:70_000], noise[:70_000], make([]byte, 70_000), skewed[:9000]}, nil),
	}
})

// packers are the compressors of two libraries at all their levels.
func packers(t testing.TB) map[string]func([]byte) []byte {
	all := make(map[string]func([]byte) []byte)
	for level := flate.HuffmanOnly; level <= flate.BestCompression; level++ {
		all[fmt.Sprintf("std%d", level)] = func(p []byte) []byte {
			var buf bytes.Buffer
			w, err := flate.NewWriter(&buf, level)
			if err != nil {
				t.Fatal(err)
			}
			return finish(t, &buf, w, p)
		}
		all[fmt.Sprintf("klauspost%d", level)] = func(p []byte) []byte {
			var buf bytes.Buffer
			w, err := kflate.NewWriter(&buf, level)
			if err != nil {
				t.Fatal(err)
			}
			return finish(t, &buf, w, p)
		}
	}
	all["flushed"] = func(p []byte) []byte { // many blocks, empty stored ones among them
		var buf bytes.Buffer
		w, err := flate.NewWriter(&buf, 6)
		if err != nil {
			t.Fatal(err)
		}
		for len(p) > 0 {
			n := min(len(p), 1+len(p)/7)
			if _, err := w.Write(p[:n]); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			p = p[n:]
		}
		return finish(t, &buf, w, nil)
	}
	return all
}

func finish(t testing.TB, buf *bytes.Buffer, w interface {
	Write([]byte) (int, error)
	Close() error
}, p []byte,
) []byte {
	t.Helper()
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zlibbed(t testing.TB, p []byte) []byte {
	var buf bytes.Buffer
	return finish(t, &buf, zlib.NewWriter(&buf), p)
}

func gzipped(t testing.TB, p []byte) []byte {
	var buf bytes.Buffer
	return finish(t, &buf, gzip.NewWriter(&buf), p)
}

// A bitWriter makes streams by hand.
type bitWriter struct {
	out []byte
	n   uint
}

// bits appends the low n bits of v, lowest first.
func (w *bitWriter) bits(v, n uint) *bitWriter {
	for i := range n {
		if w.n%8 == 0 {
			w.out = append(w.out, 0)
		}
		w.out[w.n/8] |= byte(v >> i & 1 << (w.n % 8))
		w.n++
	}
	return w
}

// code appends a Huffman code, highest bit first.
func (w *bitWriter) code(v, n uint) *bitWriter {
	for i := range n {
		w.bits(v>>(n-1-i)&1, 1)
	}
	return w
}

// lit appends a literal, length symbol or the end in the fixed code.
func (w *bitWriter) lit(sym uint) *bitWriter {
	switch {
	case sym < 144:
		return w.code(0x30+sym, 8)
	case sym < 256:
		return w.code(0x190+sym-144, 9)
	case sym < 280:
		return w.code(sym-256, 7)
	default:
		return w.code(0xc0+sym-280, 8)
	}
}

// lengths appends the header of a dynamic block with the given code lengths, each sent as it is.
func (w *bitWriter) lengths(lit, dist []uint) *bitWriter {
	w.bits(uint(len(lit)-257), 5).bits(uint(len(dist)-1), 5).bits(19-4, 4)
	for _, sym := range []uint{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15} {
		if sym < 16 {
			w.bits(4, 3)
		} else {
			w.bits(0, 3)
		}
	}
	for _, n := range append(append([]uint(nil), lit...), dist...) {
		w.code(n, 4)
	}
	return w
}

// lens returns n code lengths, zero but for the pairs of symbol and length given.
func lens(n int, pairs ...uint) []uint {
	l := make([]uint, n)
	for i := 0; i < len(pairs); i += 2 {
		l[pairs[i]] = pairs[i+1]
	}
	return l
}

// handmade are streams that compressors do not write; whether they are valid is for compress/flate to say.
func handmade() map[string][]byte {
	w := func() *bitWriter { return new(bitWriter) }
	fixed := func() *bitWriter { return w().bits(1, 1).bits(1, 2) }
	dynamic := func() *bitWriter { return w().bits(1, 1).bits(2, 2) }
	stored := func(final uint, p []byte) []byte {
		b := w().bits(final, 1).bits(0, 2).bits(0, 5).bits(uint(len(p)), 16).bits(^uint(len(p)), 16)
		return append(b.out, p...)
	}
	m := map[string][]byte{
		"empty fixed":             fixed().lit(256).out,
		"empty stored":            stored(1, nil),
		"stored":                  stored(1, []byte("stored")),
		"largest stored":          stored(1, bytes.Repeat([]byte("x"), 65535)),
		"two stored":              append(stored(0, []byte("one")), stored(1, []byte("two"))...),
		"stored, bad complement":  {1, 5, 0, 0, 0, 1, 2, 3, 4, 5},
		"stored, cut":             stored(1, []byte("stored"))[:8],
		"reserved type":           w().bits(1, 1).bits(3, 2).bits(0, 40).out,
		"length 258 by 284":       fixed().lit('a').lit(284).bits(31, 5).code(0, 5).lit(256).out,
		"length 258 by 285":       fixed().lit('a').lit(285).code(0, 5).lit(256).out,
		"length 257":              fixed().lit('a').lit(284).bits(30, 5).code(0, 5).lit(256).out,
		"length symbol 286":       fixed().lit('a').lit(286).code(0, 5).lit(256).bits(0, 32).out,
		"length symbol 287":       fixed().lit('a').lit(287).code(0, 5).lit(256).bits(0, 32).out,
		"distance symbol 30":      fixed().lit('a').lit(257).code(30, 5).lit(256).bits(0, 32).out,
		"distance symbol 31":      fixed().lit('a').lit(257).code(31, 5).lit(256).bits(0, 32).out,
		"distance before start":   fixed().lit('a').lit(257).code(1, 5).lit(256).bits(0, 99).out,
		"distance from nothing":   fixed().lit(257).code(0, 5).lit(256).bits(0, 99).out,
		"trailing bytes":          append(fixed().lit('a').lit(256).out, 1, 2, 3),
		"single distance code":    dynamic().lengths(lens(258, 'a', 2, 256, 2, 257, 1), lens(1, 0, 1)).code(2, 2).code(0, 1).code(0, 1).code(3, 2).out,
		"its other half":          dynamic().lengths(lens(258, 'a', 2, 256, 2, 257, 1), lens(1, 0, 1)).code(2, 2).code(0, 1).code(1, 1).code(3, 2).bits(0, 99).out,
		"single two-bit code":     dynamic().lengths(lens(258, 'a', 2, 256, 2, 257, 1), lens(1, 0, 2)).code(2, 2).code(0, 1).code(0, 2).code(3, 2).out,
		"no distance code":        dynamic().lengths(lens(258, 'a', 2, 256, 2, 257, 1), lens(1)).code(2, 2).code(3, 2).out,
		"no distance code, used":  dynamic().lengths(lens(258, 'a', 2, 256, 2, 257, 1), lens(1)).code(2, 2).code(0, 1).code(3, 2).bits(0, 99).out,
		"only the end":            dynamic().lengths(lens(257, 256, 1), lens(1)).code(0, 1).out,
		"only the end, other":     dynamic().lengths(lens(257, 256, 1), lens(1)).code(1, 1).bits(0, 99).out,
		"no literal code":         dynamic().lengths(lens(257), lens(1)).bits(0, 99).out,
		"no end":                  dynamic().lengths(lens(257, 'a', 1, 'b', 1), lens(1)).bits(0, 99).out,
		"oversubscribed":          dynamic().lengths(lens(257, 'a', 1, 'b', 1, 256, 1), lens(1)).bits(0, 99).out,
		"incomplete":              dynamic().lengths(lens(257, 'a', 2, 256, 2), lens(1)).bits(0, 99).out,
		"287 literal codes":       dynamic().lengths(lens(287, 'a', 1, 256, 1), lens(1)).bits(0, 99).out,
		"31 distance codes":       dynamic().lengths(lens(257, 'a', 1, 256, 1), lens(31, 0, 1, 1, 1)).bits(0, 99).out,
		"repeat of nothing":       dynamic().bits(0, 5).bits(0, 5).bits(0, 4).bits(1, 3).bits(1, 3).bits(0, 6).bits(0, 99).out,
		"repeat past the end":     dynamic().bits(0, 5).bits(0, 5).bits(0, 4).bits(0, 3).bits(1, 3).bits(1, 3).bits(0, 3).bits(^uint(0), 64).bits(^uint(0), 64).out,
		"empty code of lengths":   dynamic().bits(0, 5).bits(0, 5).bits(0, 4).bits(0, 12).bits(0, 99).out,
		"nothing":                 {},
		"longest codes, one path": nil,
	}
	// Codes of every length up to 15, twice 15: sub-tables of all depths in both tables.
	ladder, dists := lens(286), lens(30)
	for i := range uint(15) {
		ladder[64+i], dists[i] = i+1, i+1
	}
	ladder[64+14], ladder[285], ladder[256] = 14+1, 15, 0
	ladder[64+13], ladder[256] = 0, 14
	dists[15] = 15
	b := dynamic().lengths(ladder, dists)
	end := uint(1<<14 - 2)
	for range 20 {
		b.code(0, 1).code(2, 2).code(0x7ffe, 15).code(0x7fff, 15).code(0, 1) // 'A' 'B' then match
	}
	m["longest codes, one path"] = b.code(end, 14).out
	// The furthest match, and one further.
	for name, sym := range map[string]uint{"furthest": 32768, "too far": 32767} {
		p := append(stored(0, bytes.Repeat([]byte("0123456"), 10_000)[:sym]), 0)[:5+sym]
		m[name] = append(p, fixed().lit(285).code(29, 5).bits(8191, 13).lit(256).bits(0, 200).out...)
	}
	return m
}
