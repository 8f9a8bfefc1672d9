package squashfs_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/metrics"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
	"hpcimg/squashfs/internal/disk"
)

var (
	mutations = flag.Int("squashfs.mutations", 20_000, "images that TestMutations damages and reads")
	mutated   = flag.String("squashfs.mutated", "", "`file` that TestMutations reads instead of what it damages")
)

// Limits of what a damaged image may cost. The time is the processor's: on a
// busy machine anything may take seconds.
const (
	mutationTime  = 2 * time.Second
	mutationBytes = 64 << 20
)

// mutationSeeds returns small images of all compressors, with the metadata
// compressed and not: damage to compressed metadata rarely gets past the
// decompressor.
func mutationSeeds(t testing.TB) [][]byte {
	t.Helper()
	dir := t.TempDir()
	tree := testtree.Tree{
		testtree.Dir("d", 0o755),
		testtree.Dir("d/e", 0o755),
		testtree.File("d/e/deep", 0o644, "deep"),
		testtree.File("d/x", 0o644, "x", testtree.Xattr("user.a", "value"), testtree.Xattr("user.b", strings.Repeat("v", 300))),
		testtree.File("d/y", 0o644, "y", testtree.Xattr("user.b", strings.Repeat("v", 300))),
		testtree.File("empty", 0o644, ""),
		testtree.File("small", 0o644, testtree.Text(1, 700)),
		testtree.File("block", 0o644, testtree.Text(2, 4096)),
		testtree.File("blocks", 0o644, testtree.Text(3, 20000)),
		testtree.File("noise", 0o644, testtree.Bytes(4, 9000)),
		testtree.File("sparse", 0o644, append(testtree.Zeros(12288), "end"...)),
		testtree.Symlink("link", "d/e/deep"),
		testtree.Hardlink("hard", "blocks"),
		testtree.FIFO("fifo", 0o644),
	}
	// Few names, but long enough for a directory index.
	for i := range 50 {
		tree = append(tree, testtree.File("d/"+manyName(i)+strings.Repeat("x", 180), 0o644, ""))
	}
	tree.Dir(t, dir)
	var seeds [][]byte
	for _, args := range []string{
		"-noI", "-noI -noX -noF -noD", "-comp zstd", "-comp zstd -noI -noX", "-comp lz4", "-comp lz4 -noI", "-comp xz",
		"-noI -no-exports -always-use-fragments",
	} {
		img, err := os.ReadFile(mksquashfs(t, dir, strings.Fields("-b 4096 "+args)...))
		if err != nil {
			t.Fatal(err)
		}
		seeds = append(seeds, img)
	}
	return seeds
}

// TestMutations reads, checks and extracts damaged images. Whatever is in
// them, it takes bounded time and memory, and ends in success or an error that
// says what is wrong.
func TestMutations(t *testing.T) {
	if *mutated != "" {
		img, err := os.ReadFile(*mutated)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %v", *mutated, readMutated(t, *mutated, img, true))
		return
	}
	seeds := mutationSeeds(t)
	n := *mutations
	if testing.Short() || oracle.Race {
		n = min(n, 2000)
	}
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	outcomes := make(map[string]int)
	for i := range n {
		img := mutate(rng, seeds[i%len(seeds)])
		err := readMutated(t, fmt.Sprintf("image-%d", i), img, i%100 == 0)
		outcomes[outcome(err)]++
	}
	t.Logf("%d images: %v", n, outcomes)
}

// readMutated reads an image by all ways that there are and reports what it
// must not cost. It returns the error that the image has.
func readMutated(t *testing.T, name string, img []byte, extract bool) error {
	t.Helper()
	dog := time.AfterFunc(time.Minute, func() { panic(name + " is still being read") })
	defer dog.Stop()
	before, start := allocated(), processorTime(t)
	err := readHostile(img)
	if err == nil {
		err = checkHostile(t.Context(), img)
	}
	if extract {
		if extractErr := extractHostile(t, img); !typed(extractErr) {
			err = extractErr
		}
	}
	took, bytes := processorTime(t)-start, allocated()-before
	if !typed(err) || took > mutationTime || bytes > mutationBytes {
		path := filepath.Join(t.ArtifactDir(), filepath.Base(name))
		if writeErr := os.WriteFile(path, img, 0o600); writeErr != nil {
			t.Error(writeErr)
		}
		t.Errorf("%s: %v, %d bytes, %v", path, took, bytes, err)
	}
	return err
}

func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func outcome(err error) string {
	var fe *squashfs.FormatError
	switch {
	case err == nil:
		return "read"
	case errors.As(err, &fe):
		return fe.Structure
	case errors.Is(err, squashfs.ErrLimit):
		return "limit"
	}
	return "unsupported"
}

// typed reports whether err is one that the package documents.
func typed(err error) bool {
	if err != nil && strings.Contains(err.Error(), "panic") {
		return false
	}
	return err == nil || errors.Is(err, squashfs.ErrFormat) || errors.Is(err, squashfs.ErrLimit) ||
		errors.Is(err, errors.ErrUnsupported)
}

func allocated() int64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

// mutate returns a damaged copy of an image.
func mutate(rng *rand.Rand, seed []byte) []byte {
	img := bytes.Clone(seed)
	tables := int(binary.LittleEndian.Uint64(img[64:]))
	place := func() int {
		switch rng.IntN(4) {
		case 0:
			return 4 + rng.IntN(disk.SuperblockSize-4)
		case 1:
			return rng.IntN(len(img))
		}
		return tables + rng.IntN(len(img)-tables)
	}
	for range 1 + rng.IntN(3) {
		at := place()
		switch rng.IntN(8) {
		case 0, 1:
			img[at] ^= 1 << rng.IntN(8)
		case 2:
			img[at] = byte(rng.Uint32())
		case 3, 4, 5:
			mutateField(rng, img, at)
		case 6:
			from := place()
			copy(img[at:], bytes.Clone(img[from:min(len(img), from+1+rng.IntN(64))]))
		case 7:
			if rng.IntN(4) == 0 {
				return img[:at]
			}
			k := 1 + rng.IntN(16)
			img = append(img[:at:at], img[min(at+k, len(img)):]...)
			if len(img) <= tables {
				return img
			}
		}
	}
	return img
}

// mutateField sets a field of 2, 4 or 8 bytes to a value that programs get
// wrong.
func mutateField(rng *rand.Rand, img []byte, at int) {
	size := 2 << rng.IntN(3)
	if at+size > len(img) {
		return
	}
	var buf [8]byte
	copy(buf[:], img[at:at+size])
	old := binary.LittleEndian.Uint64(buf[:])
	values := []uint64{
		0, 1, old + 1, old - 1, old * 2, old << 8, ^uint64(0), 1<<63 - 1, 1 << 62, 1<<32 - 1, 1<<31 - 1, 1 << 31,
		1 << 24, 0xffff, 0x7fff, 0x8000, 8192, 8193, 4096, 4097, uint64(len(img)), uint64(rng.IntN(len(img))),
	}
	binary.LittleEndian.PutUint64(buf[:], values[rng.IntN(len(values))])
	copy(img[at:at+size], buf[:])
}

// readHostile reads an image by all ways that there are, and returns the first
// error about each of its files.
func readHostile(img []byte) error {
	r, err := squashfs.NewReader(bytes.NewReader(img), int64(len(img)), &squashfs.ReaderOptions{
		CacheSize: 1 << 20, MaxReadFile: 1 << 20, Workers: 2,
	})
	if err != nil {
		return err
	}
	n := 0
	var first error
	keep := func(err error) {
		if first == nil || !typed(err) {
			first = err
		}
	}
	walkErr := fs.WalkDir(r, ".", func(name string, d fs.DirEntry, err error) error {
		if !utf8.ValidString(name) {
			return fs.SkipDir // no path of an fs.FS
		}
		if err != nil {
			keep(err)
			return nil
		}
		if n++; n > 2000 {
			return fs.SkipAll
		}
		if err := readHostileFile(r, name, d); err != nil {
			keep(err)
		}
		return nil
	})
	if walkErr != nil {
		return walkErr
	}
	for _, number := range []uint32{1, 2, 17, uint32(r.Inodes())} {
		if _, err := r.InodeByNumber(number); err != nil && !errors.Is(err, fs.ErrNotExist) {
			keep(err)
		}
	}
	return first
}

func readHostileFile(r *squashfs.Reader, name string, d fs.DirEntry) error {
	fi, err := d.Info()
	if err != nil {
		return err
	}
	if _, err := fi.(*squashfs.FileInfo).Xattrs(); err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return nil
	}
	in := fi.Sys().(*squashfs.Inode)
	if _, _, err := in.Fragment(); err != nil {
		return err
	}
	var buf [5000]byte
	for _, off := range []int64{fi.Size() - 4000, fi.Size() / 2, 0} {
		if _, err := in.ReadAt(buf[:], max(off, 0)); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	f, err := r.Open(name)
	if errors.Is(err, fs.ErrInvalid) || errors.Is(err, fs.ErrNotExist) {
		return nil // a name that is not UTF-8, or that the directory index has elsewhere
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = io.Copy(&failingWriter{after: 1 << 20}, f); err != nil && !errors.Is(err, errFull) {
		return err
	}
	return nil
}

func checkHostile(ctx context.Context, img []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := squashfs.Check(ctx, bytes.NewReader(img), int64(len(img)), &squashfs.CheckOptions{Workers: 2})
	return err
}

func extractHostile(t *testing.T, img []byte) error {
	r, err := squashfs.NewReader(bytes.NewReader(img), int64(len(img)), &squashfs.ReaderOptions{CacheSize: 1 << 20})
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		return err
	}
	_, err = squashfs.ExtractTo(t.Context(), r, dir, &squashfs.ExtractOptions{
		MaxBytes: 4 << 20, MaxEntries: 1000, NoOwner: true, NoDevices: true, Workers: 2,
	})
	var pe *fs.PathError
	if errors.As(err, &pe) && !typed(err) {
		err = nil // the operating system's opinion of the damage
	}
	return err
}
