package squashfs_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"hpcimg/squashfs"
	"hpcimg/squashfs/internal/disk"
)

// fuzzSeeds adds the small images in testdata.
func fuzzSeeds(f *testing.F) [][]byte {
	f.Helper()
	names, err := filepath.Glob("testdata/seeds/*.sqfs")
	if err != nil || len(names) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	var seeds [][]byte
	for _, name := range names {
		img, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, img)
		f.Add(img)
	}
	return seeds
}

// Go spends a minute on making each interesting input smaller, which is wasted
// on images: fuzz with -fuzzminimizetime 10x.

// FuzzReader reads whatever an image has. Damage is reported as such, and what
// can be read is the same by all ways.
func FuzzReader(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, img []byte) {
		if err := readHostile(img); !typed(err) {
			t.Error(err)
		}
		agree(t, img)
	})
}

// agree compares WriteTo, ReadAt and ReadFile.
func agree(t *testing.T, img []byte) {
	r, err := squashfs.NewReader(bytes.NewReader(img), int64(len(img)), &squashfs.ReaderOptions{MaxReadFile: 1 << 20})
	if err != nil {
		return
	}
	n := 0
	_ = fs.WalkDir(r, ".", func(name string, d fs.DirEntry, err error) error {
		if n++; n > 100 || err != nil || !fs.ValidPath(name) {
			return fs.SkipAll
		}
		data, err := r.ReadFile(name)
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		fi, err := r.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		in := fi.Sys().(*squashfs.Inode)
		p := make([]byte, len(data))
		if k, err := in.ReadAt(p, 0); k != len(data) || err != nil && k > 0 {
			t.Errorf("%s: ReadAt = %d, %v", name, k, err)
		}
		var buf bytes.Buffer
		file, err := r.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := buf.ReadFrom(file); err != nil || !bytes.Equal(buf.Bytes(), data) || !bytes.Equal(p, data) {
			t.Errorf("%s: contents differ, %v", name, err)
		}
		return file.Close()
	})
}

// FuzzCheck checks images. One that is found without fault can be read.
func FuzzCheck(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, img []byte) {
		report, err := squashfs.Check(t.Context(), bytes.NewReader(img), int64(len(img)), nil)
		if err != nil {
			if !typed(err) {
				t.Error(err)
			}
			return
		}
		if len(report.Findings) == 0 {
			if err := readHostile(img); err != nil {
				t.Errorf("no findings, but %v", err)
			}
		}
	})
}

// FuzzSuperblock puts superblocks before good tables.
func FuzzSuperblock(f *testing.F) {
	seeds := fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, sb []byte) {
		img := bytes.Clone(seeds[len(sb)%len(seeds)])
		copy(img[:disk.SuperblockSize], sb)
		if err := readHostile(img); !typed(err) {
			t.Error(err)
		}
	})
}

// FuzzMetablock reads inodes, listings and attributes from tables that are
// given as they stand before compression.
func FuzzMetablock(f *testing.F) {
	c := newCraft()
	c.setRoot(craftEntry{"a", c.file([]byte("contents")), disk.TypeFile}, craftEntry{"d", c.dir(3), disk.TypeDir})
	f.Add(c.inodes, c.dirs, uint64(c.root))
	f.Fuzz(func(t *testing.T, inodes, dirs []byte, root uint64) {
		if len(inodes) == 0 || len(dirs) == 0 || len(inodes) > disk.MetadataSize || len(dirs) > disk.MetadataSize {
			return
		}
		c := newCraft()
		c.inodes, c.dirs, c.root = inodes, dirs, disk.Ref(root)
		c.refs = make([]disk.Ref, 200)
		img := c.build(t)
		if err := readHostile(img); !typed(err) {
			t.Error(err)
		}
		if err := checkHostile(t.Context(), img); !typed(err) {
			t.Error(err)
		}
	})
}

// Fuzzing starts from images that show what it is about.
func TestFuzzSeeds(t *testing.T) {
	names, err := filepath.Glob("testdata/seeds/*.sqfs")
	if err != nil || len(names) < 4 {
		t.Fatalf("seeds %v, %v", names, err)
	}
	for _, name := range names {
		img, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if report := checkImage(t, img, nil); len(report.Findings) > 0 {
			t.Errorf("%s: %+v", name, report.Findings)
		}
		if err := readHostile(img); err != nil && !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
