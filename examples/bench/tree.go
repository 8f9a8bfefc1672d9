package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"

	"hpcimg/internal/testtree"
)

// traits describe a tree, so that somebody can tell how far a result carries.
type traits struct {
	Files    int64 `json:"files"`
	Dirs     int64 `json:"dirs"`
	Links    int64 `json:"links"`
	Bytes    int64 `json:"bytes"`
	Small    int64 `json:"small"` // files below 32 KiB
	SmallSum int64 `json:"small_bytes"`
	Largest  int64 `json:"largest"`
}

func (t traits) String() string {
	return fmt.Sprintf("%d files, %d directories, %d links, %.0f MB; %.0f %% of the files and %.0f %% of the bytes are in files below 32 KiB; the largest has %.0f MB",
		t.Files, t.Dirs, t.Links, float64(t.Bytes)/1e6, percent(t.Small, t.Files), percent(t.SmallSum, t.Bytes), float64(t.Largest)/1e6)
}

func percent(a, b int64) float64 { return 100 * float64(a) / math.Max(float64(b), 1) }

// describeTar reads an archive once, which also brings it into the page cache.
func describeTar(ctx context.Context, name string) (t traits, err error) {
	f, err := os.Open(name)
	if err != nil {
		return t, err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, f)
			return t, err
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return t, fmt.Errorf("%s: %w", name, err)
		}
		t.add(h)
	}
}

func (t *traits) add(h *tar.Header) {
	switch h.Typeflag {
	case tar.TypeDir:
		t.Dirs++
	case tar.TypeReg:
		t.Files++
		t.Bytes += h.Size
		t.Largest = max(t.Largest, h.Size)
		if h.Size < 32<<10 {
			t.Small++
			t.SmallSum += h.Size
		}
	default:
		t.Links++
	}
}

// sampleLimit keeps single files from deciding what a sample is like.
const sampleLimit = 32 << 20

// treeSampler writes about size bytes of what is in some directories, chosen by
// path, to a tar archive. Directories come as their first file does.
type treeSampler struct {
	tw   *tar.Writer
	keep float64 // share of files
	dirs map[string]bool
}

// writeSample takes everything if size is 0.
func writeSample(ctx context.Context, w io.Writer, roots []string, size int64) error {
	s := treeSampler{tw: tar.NewWriter(w), keep: 1, dirs: map[string]bool{".": true, "/": true}}
	if size > 0 {
		var total int64
		err := walkAll(ctx, roots, func(_ string, info fs.FileInfo) error {
			if info.Mode().IsRegular() && info.Size() <= sampleLimit {
				total += info.Size()
			}
			return nil
		})
		if err != nil {
			return err
		}
		s.keep = float64(size) / math.Max(float64(total), 1)
	}
	err := walkAll(ctx, roots, func(name string, info fs.FileInfo) error {
		if size > 0 && (info.Size() > sampleLimit || !s.chosen(name)) {
			return nil
		}
		return s.add(name, info)
	})
	if err != nil {
		return err
	}
	return s.tw.Close()
}

// walkAll calls fn for files and symbolic links. What cannot be read by this
// user, or has gone meanwhile, is left out.
func walkAll(ctx context.Context, roots []string, fn func(name string, info fs.FileInfo) error) error {
	for _, root := range roots {
		err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if cause := ctx.Err(); cause != nil {
				return cause
			}
			if err != nil || !d.Type().IsRegular() && d.Type() != fs.ModeSymlink {
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return nil
			}
			return fn(name, info)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *treeSampler) chosen(name string) bool {
	h := fnv.New64a()
	_, _ = io.WriteString(h, name) // never fails
	// The upper bits of FNV hardly depend on a name's last bytes.
	x := h.Sum64() * 0x9e3779b97f4a7c15
	return float64((x^x>>32)&math.MaxUint32)/math.MaxUint32 < s.keep
}

func (s *treeSampler) add(name string, info fs.FileInfo) error {
	var target string
	var f *os.File
	var err error
	if info.Mode().IsRegular() {
		if f, err = os.Open(name); err != nil {
			return nil
		}
		defer f.Close()
	} else if target, err = os.Readlink(name); err != nil {
		return nil
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name = strings.TrimPrefix(filepath.ToSlash(name), "/")
	if err := s.parents(path.Dir(h.Name)); err != nil {
		return err
	}
	if err := s.tw.WriteHeader(h); err != nil || f == nil {
		return err
	}
	_, err = io.CopyN(s.tw, f, h.Size)
	return err
}

func (s *treeSampler) parents(dir string) error {
	if s.dirs[dir] {
		return nil
	}
	s.dirs[dir] = true
	if err := s.parents(path.Dir(dir)); err != nil {
		return err
	}
	return s.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
}

// writeGenerated writes a tree of about size bytes that depends on nothing but
// that: seven eighths of its files are small, some come twice, and of the
// large ones a part does not compress.
func writeGenerated(ctx context.Context, w io.Writer, size int64) error {
	var tree testtree.Tree
	var sum int64
	for i := uint64(0); sum < size; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		seed := i - i%50/49 // one in fifty is as the one before
		n := 200 + int(seed*2654435761%12000)
		if seed%8 == 7 {
			n *= 40
		}
		data := testtree.Text(seed, n)
		if seed%16 == 15 {
			data = append(data, testtree.Bytes(seed, n/4)...)
		}
		tree = append(tree, testtree.File(fmt.Sprintf("usr/lib/%03d/%02d/file-%d", i/500, i/20%25, i), 0o644, data))
		sum += int64(len(data))
	}
	return tree.WriteTar(w)
}
