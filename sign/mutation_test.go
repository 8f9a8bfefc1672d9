package sign_test

import (
	"crypto"
	"encoding/binary"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/metrics"
	"testing"
	"time"

	"hpcimg/sif"
	"hpcimg/sign"
)

var (
	mutations    = flag.Int("mutations", 3000, "how many images TestMillionMutations makes")
	mutationSeed = flag.Uint64("mutation-seed", 1, "what it starts from")
)

// patched is a file in memory a few bytes of which have been changed. changes are undone by the next reset.
type patched struct {
	data []byte
	size int64
	undo []undo
}

type undo struct {
	off int
	old []byte
}

func (p *patched) ReadAt(b []byte, off int64) (int, error) {
	if off >= p.size {
		return 0, io.EOF
	}
	n := copy(b, p.data[off:p.size])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (p *patched) write(off int, b []byte) {
	if off < 0 || off+len(b) > len(p.data) {
		return
	}
	p.undo = append(p.undo, undo{off, append([]byte(nil), p.data[off:off+len(b)]...)})
	copy(p.data[off:], b)
}

func (p *patched) reset() {
	for len(p.undo) > 0 {
		u := p.undo[len(p.undo)-1]
		copy(p.data[u.off:], u.old)
		p.undo = p.undo[:len(p.undo)-1]
	}
	p.size = int64(len(p.data))
}

// region is where a sample is worth changing.
type region struct{ start, end int }

func (p *patched) regions() []region {
	list := []region{{0, 128}, {table, table + 6*slot}}
	for n := range 48 {
		d := table + n*slot
		if d+slot > len(p.data) || binary.LittleEndian.Uint32(p.data[d:]) != uint32(sif.DataSignature) {
			continue
		}
		off, size := int(binary.LittleEndian.Uint64(p.data[d+fieldOffset:])), int(binary.LittleEndian.Uint64(p.data[d+fieldSize:]))
		if off > 0 && size > 0 && off+size <= len(p.data) {
			list = append(list, region{off, off + size}, region{off, off + size})
		}
	}
	return list
}

// mutate changes p in one to four places.
func (p *patched) mutate(r *rand.Rand, regions []region) {
	limits := []uint64{0, 1, 4, 127, 1 << 15, 1 << 21, 1 << 31, 1<<31 - 1, 1 << 32, 1 << 40, 1 << 62, 1 << 63, 1<<63 - 1, 1<<64 - 1, 0xf0000000, 0xf0000001, uint64(len(p.data))}
	for range 1 + r.IntN(4) {
		where := regions[r.IntN(len(regions))]
		off := where.start + r.IntN(where.end-where.start)
		var b [8]byte
		switch r.IntN(8) {
		case 0, 1: // one bit
			if off < len(p.data) {
				p.write(off, []byte{p.data[off] ^ 1<<r.IntN(8)})
			}
		case 2:
			p.write(off, []byte{byte(r.Uint32())})
		case 3: // a field
			binary.LittleEndian.PutUint64(b[:], limits[r.IntN(len(limits))])
			p.write(off, b[:4<<r.IntN(2)])
		case 4: // a field of a descriptor, or a counter of the header
			binary.LittleEndian.PutUint64(b[:], limits[r.IntN(len(limits))])
			fields := []int{fieldType, 5, fieldGroup, fieldLink, fieldOffset, fieldSize, fieldPadded, fieldExtra, fieldExtra + 4}
			p.write(table+r.IntN(6)*slot+fields[r.IntN(len(fields))], b[:4<<r.IntN(2)])
			if r.IntN(4) == 0 {
				p.write(80+8*r.IntN(6), b[:])
			}
		case 5: // a descriptor over another
			from, to := table+r.IntN(6)*slot, table+r.IntN(6)*slot
			if from+slot <= len(p.data) {
				p.write(to, append([]byte(nil), p.data[from:from+slot]...))
			}
		case 6: // text moved within
			n := min(1+r.IntN(64), where.end-off)
			from := where.start + r.IntN(where.end-where.start-n+1)
			if from+n <= len(p.data) {
				p.write(off, append([]byte(nil), p.data[from:from+n]...))
			}
		case 7: // cut off
			if r.IntN(8) == 0 {
				p.size = int64(off)
			}
		}
	}
}

func samples(t testing.TB, opts *sign.VerifyOptions) []*patched {
	t.Helper()
	c := openCorpus(t)
	files, err := filepath.Glob(filepath.Join(c.dir, "images", "one-*.sif"))
	must(t, err)
	legacy, err := filepath.Glob(filepath.Join(c.dir, "images", "two-*legacy*.sif"))
	must(t, err)
	key := generate(t, sign.KeyOptions{Time: epoch()})
	ours := newImage(t)
	must(t, sign.Sign(t.Context(), ours, key, nil))
	pem := mustKey(t, sign.KeyEd25519)
	must(t, sign.SignDSSE(t.Context(), ours, []crypto.Signer{pem}, nil))
	opts.Keyring = sign.NewKeyring(key, c.key(t).Public())
	opts.PublicKeys = []crypto.PublicKey{pem.Public(), c.public(t, "ed25519")}
	var list []*patched
	for _, path := range append(append(files, legacy...), ours, ours, ours) {
		data, err := os.ReadFile(path)
		must(t, err)
		list = append(list, &patched{data: data, size: int64(len(data))})
	}
	return list
}

// TestMillionMutations changes headers, descriptor tables and signatures. Nothing panics, hangs or allocates more than 64 MiB, what is accepted is
// covered, and sylabs/sif accepts it too. The long form is
//
//	go test ./sign -run TestMillionMutations -mutations 1000000
func TestMillionMutations(t *testing.T) {
	opts := &sign.VerifyOptions{Legacy: true, Workers: 1}
	list := samples(t, opts)
	regions := make([][]region, len(list))
	for i, p := range list {
		regions[i] = p.regions()
	}
	r := rand.New(rand.NewPCG(*mutationSeed, 0))
	allocated := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	heap := func() uint64 { metrics.Read(allocated); return allocated[0].Value.Uint64() }
	var refused, opened, accepted int
	var slowest time.Duration
	var largest uint64
	for i := range *mutations {
		p := list[i%len(list)]
		p.mutate(r, regions[i%len(list)])
		before, begin := heap(), time.Now()
		err := func() error {
			f, err := sif.NewFile(p, p.size)
			if err != nil {
				refused++
				return err
			}
			opened++
			result, err := sign.Verify(t.Context(), f, opts)
			if err != nil {
				return err
			}
			for _, o := range result.Objects {
				if !o.Covered() {
					t.Errorf("mutation %d: object %d is not covered", i, o.ID)
				}
			}
			return nil
		}()
		took, grown := time.Since(begin), heap()-before
		slowest, largest = max(slowest, took), max(largest, grown)
		if took > 5*time.Second || grown > 64<<20 {
			t.Fatalf("mutation %d: %v, %d bytes", i, took, grown)
		}
		if err == nil {
			accepted++
		}
		p.reset()
	}
	t.Logf("%d mutations: %d refused by the parser, %d opened, %d accepted; slowest %v, largest allocation %d bytes", *mutations, refused, opened, accepted, slowest, largest)
	if accepted == 0 || refused == 0 {
		t.Error("the mutations are all of one kind")
	}
}
