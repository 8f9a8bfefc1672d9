package inflate_test

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"hpcimg/internal/inflate"
)

var randomTime = flag.Duration("random", 300*time.Millisecond, "how long to compare random streams")

// randomLengths makes the lengths of a complete code for n of size symbols, as a rule; now and then it spoils them.
func randomLengths(rnd *rand.Rand, size, n int) []uint {
	depths := []uint{0}
	for len(depths) < n {
		i := rnd.IntN(len(depths))
		if rnd.IntN(3) == 0 {
			i = len(depths) - 1 // deep codes
		}
		if depths[i] == 15 {
			if i == 0 || rnd.IntN(50) == 0 {
				break
			}
			continue
		}
		depths[i]++
		depths = append(depths, depths[i])
	}
	lens := make([]uint, size)
	for i, at := range rnd.Perm(size)[:len(depths)] {
		lens[at] = max(depths[i], 1)
	}
	if rnd.IntN(12) == 0 {
		lens[rnd.IntN(size)] = uint(rnd.IntN(16))
	}
	return lens
}

// randomStream makes blocks of all kinds, with codes that no compressor would choose; their symbols are random bits.
func randomStream(rnd *rand.Rand) []byte {
	w := new(bitWriter)
	for range 1 + rnd.IntN(4) {
		final := uint(rnd.IntN(3) / 2)
		switch kind := rnd.IntN(8); {
		case kind == 0:
			p := make([]byte, rnd.IntN(400))
			w.bits(final, 1).bits(0, 2)
			w.bits(0, (8-w.n%8)%8).bits(uint(len(p)), 16).bits(^uint(len(p)), 16)
			for range p {
				w.bits(uint(rnd.IntN(256)), 8)
			}
			continue
		case kind == 1:
			w.bits(final, 1).bits(1, 2)
		default:
			nlit, ndist := 257+rnd.IntN(30), 1+rnd.IntN(30)
			w.bits(final, 1).bits(2, 2)
			w.lengths(randomLengths(rnd, nlit, 2+rnd.IntN(nlit-2)), randomLengths(rnd, ndist, 1+rnd.IntN(ndist)))
		}
		for range rnd.IntN(200) {
			w.bits(uint(rnd.Uint32()), 32)
		}
	}
	return w.out
}

// TestRandom compares random streams with compress/flate: what is accepted, what comes out, where it ends.
func TestRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	var d inflate.Decoder
	var z inflate.Reader
	var accepted, total, produced int
	for end := time.Now().Add(*randomTime); time.Now().Before(end); total++ {
		src := randomStream(rnd)
		want, consumed, err := reference(src, 1<<20)
		produced += len(want)
		if err == nil {
			accepted++
		}
		compare(t, &d, src)
		if total%16 == 0 {
			gz := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0}, src[:consumed]...)
			compareGzip(t, &z, append(gz, gzipped(t, bytes.Clone(want[:min(len(want), 100)]))...))
		}
		if t.Failed() {
			t.Fatalf("stream %x", src)
		}
	}
	t.Logf("%d streams, %d accepted, %d bytes", total, accepted, produced)
}
