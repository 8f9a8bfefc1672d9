package squashfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hpcimg/squashfs"
)

var packCompressions = []squashfs.Compression{squashfs.CompressionGzip, squashfs.CompressionZstd, squashfs.CompressionLZ4, squashfs.CompressionNone}

func packReader(t *testing.T, data []byte, pk *squashfs.Pack) *squashfs.PackReader {
	t.Helper()
	r, err := squashfs.NewPackReader(bytes.NewReader(data), 4096, pk)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestCopy makes a pack of some files of another: it must be what packing these files gives.
func TestCopy(t *testing.T) {
	for _, c := range packCompressions {
		for keep := 1; keep <= 4; keep++ {
			t.Run(fmt.Sprintf("%v/%d", c, keep), func(t *testing.T) {
				opts := &squashfs.PackerOptions{Compression: c, BlockSize: 4096, Workers: 2}
				files := packInputs(4096)
				data, pk, contents := pack(t, files, opts)
				from := packReader(t, data, pk)

				var m memory
				p, err := squashfs.NewPacker(&m, 4096, opts)
				if err != nil {
					t.Fatal(err)
				}
				var kept [][]byte
				var got []*squashfs.Content
				for i, f := range files {
					if i%keep != 0 {
						continue
					}
					kept = append(kept, f)
					c, err := p.Copy(t.Context(), from, contents[i])
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, c)
				}
				gotPack, err := p.Close()
				if err != nil {
					t.Fatal(err)
				}
				wantData, wantPack, want := pack(t, kept, opts)
				if !bytes.Equal(m.b, wantData) {
					t.Error("other bytes")
				}
				if d := cmp.Diff(wantPack, gotPack) + cmp.Diff(want, got); d != "" {
					t.Error(d)
				}
			})
		}
	}
}

// TestReuse packs files that are known from another pack: the result is the same, and it costs nothing to compress.
func TestReuse(t *testing.T) {
	for _, c := range packCompressions {
		t.Run(c.String(), func(t *testing.T) {
			opts := squashfs.PackerOptions{Compression: c, BlockSize: 4096, Workers: 2}
			files := packInputs(4096)
			data, pk, _ := pack(t, files, &opts)
			files = append([][]byte{text(100, 9000)}, files...)
			want, wantPack, wantContents := pack(t, files, &opts)

			damaged := bytes.Clone(data)
			for i := 4096; i < len(damaged); i += 97 {
				damaged[i] ^= 0x55
			}
			for name, old := range map[string][]byte{"good": data, "damaged": damaged, "cut": data[:len(data)/2]} {
				opts.Reuse = []*squashfs.PackReader{packReader(t, old, pk)}
				var m memory
				p, err := squashfs.NewPacker(&m, 4096, &opts)
				if err != nil {
					t.Fatal(err)
				}
				var contents []*squashfs.Content
				total := int64(0)
				for _, f := range files {
					c, err := p.Add(t.Context(), bytes.NewReader(f), int64(len(f)))
					if err != nil {
						t.Fatal(err)
					}
					contents = append(contents, c)
					total += c.Size
				}
				gotPack, err := p.Close()
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(m.b, want) || cmp.Diff(wantPack, gotPack)+cmp.Diff(wantContents, contents) != "" {
					t.Errorf("%s: another pack", name)
				}
				// Files of zeros have nothing to reuse, duplicates need not be looked up.
				if s := p.Stats(); name == "good" && s.Reused < total/4 {
					t.Errorf("reused %d of %d bytes", s.Reused, total)
				}
			}
		})
	}
}

// TestCopyRefuses gives Copy and NewPackReader descriptions that do not fit their packs.
func TestCopyRefuses(t *testing.T) {
	opts := &squashfs.PackerOptions{BlockSize: 4096, Workers: 1}
	data, pk, contents := pack(t, packInputs(4096), opts)
	from := packReader(t, data, pk)
	var small, large squashfs.Content
	for _, c := range contents {
		if c.Fragment >= 0 {
			small = *c
		}
		if len(c.Blocks) > 1 && c.Blocks[0] != 0 {
			large = *c
		}
	}
	mutate := func(c squashfs.Content, f func(*squashfs.Content)) *squashfs.Content { f(&c); return &c }
	for i, c := range []*squashfs.Content{
		mutate(small, func(c *squashfs.Content) { c.Fragment = 1 << 20 }),
		mutate(small, func(c *squashfs.Content) { c.FragmentOffset = 1 << 31 }),
		mutate(small, func(c *squashfs.Content) { c.Size = 1 << 40 }),
		mutate(small, func(c *squashfs.Content) { c.Size = -5 }),
		mutate(large, func(c *squashfs.Content) { c.Start++ }),
		mutate(large, func(c *squashfs.Content) { c.Start = -1 }),
		mutate(large, func(c *squashfs.Content) { c.Size = 1 << 62 }),
		mutate(large, func(c *squashfs.Content) { c.Blocks = []uint32{1, 2} }),
		mutate(large, func(c *squashfs.Content) { c.Blocks = nil }),
	} {
		p, err := squashfs.NewPacker(&memory{}, 0, opts)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Copy(t.Context(), from, c); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("content %d: error %v", i, err)
		}
		if _, err := p.Close(); err == nil {
			t.Errorf("content %d: Close says nothing", i)
		}
	}
	for i, change := range []func(*squashfs.Pack){
		func(p *squashfs.Pack) { p.Size = -1 },
		func(p *squashfs.Pack) { p.BlockSize = 1 << 30 },
		func(p *squashfs.Pack) { p.Units = append([]squashfs.Unit{{Start: 1 << 60, Word: 1}}, p.Units...) },
		func(p *squashfs.Pack) { p.Units = append([]squashfs.Unit{{Start: -1, Word: 1}}, p.Units...) },
		func(p *squashfs.Pack) { p.Units = []squashfs.Unit{{Word: 1 << 30}} },
	} {
		bad := *pk
		change(&bad)
		if _, err := squashfs.NewPackReader(bytes.NewReader(data), 0, &bad); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("pack %d: error %v", i, err)
		}
	}
	other := &squashfs.PackerOptions{BlockSize: 8192, Reuse: []*squashfs.PackReader{from}}
	if _, err := squashfs.NewPacker(&memory{}, 0, other); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("another block size: error %v", err)
	}
}
