//go:build linux

package conformance_test

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"testing"

	"hpcimg/convert"
	"hpcimg/examples/bench/images"
	"hpcimg/image/cache"
	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// TestRealImages converts images of a distribution and compares what the kernel then mounts, and what our reader sees, with what
// umoci unpacks: as the layers say, and with everything root's.
func TestRealImages(t *testing.T) {
	names := []string{"base", "python"}
	if *long {
		names = images.Names()
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			layout := realImage(t, name)
			rootfs, begin := unpack(t, layout, "v1")
			want := walk(t, rootfs)
			if err := os.RemoveAll(rootfs); err != nil { // gigabytes
				t.Fatal(err)
			}
			img := openImage(t, layout, "v1")
			dst := filepath.Join(t.TempDir(), "image.sqfs")
			for _, allRoot := range []bool{false, true} {
				opts := &convert.Options{AllRoot: allRoot, Compression: squashfs.CompressionLZ4, Force: true}
				if _, err := convert.Convert(t.Context(), convert.FromImage(img), dst, opts); err != nil {
					t.Fatal(err)
				}
				wanted := want
				if allRoot {
					wanted = ownedByRoot(want)
				}
				got := listing(t, dst)
				noDiff(t, settled(wanted, got, begin), got, nil)
			}
			// Both images differ in owners only: the kernel's opinion of the second will do.
			got := walk(t, oracle.KernelMount(t, dst))
			noDiff(t, settled(ownedByRoot(want), got, begin), got, nil)
		})
	}
}

func ownedByRoot(l testtree.Listing) testtree.Listing {
	out := make(testtree.Listing, len(l))
	for p, n := range l {
		n.UID, n.GID = 0, 0
		out[p] = n
	}
	return out
}

// listing reads a squashfs with our reader.
func listing(t testing.TB, name string) testtree.Listing {
	t.Helper()
	r, err := squashfs.Open(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l, err := testtree.FromFS(r)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestSameBytes converts versions of a real image in every way that may save work. The bytes are those of a conversion that saves
// none, on file systems that share blocks and on such that do not.
func TestSameBytes(t *testing.T) {
	name, compression := "base", squashfs.CompressionLZ4
	if *long {
		name, compression = "python", squashfs.CompressionGzip
	}
	layout := realImage(t, name)
	for _, place := range []struct {
		name string
		dir  func(*testing.T) string
	}{
		{"ordinary", func(t *testing.T) string { return t.TempDir() }},
		{"reflink", func(t *testing.T) string { return btrfs(t, 0) }},
	} {
		t.Run(place.name, func(t *testing.T) {
			dir := place.dir(t)
			kept, err := cache.Open(filepath.Join(dir, "cache"), nil)
			if err != nil {
				t.Fatal(err)
			}
			convertAs := func(version string, opts convert.Options) (sum, path string) {
				t.Helper()
				path = filepath.Join(dir, "out.sif")
				opts.Force, opts.Compression = true, compression
				if _, err := convert.Convert(t.Context(), convert.FromImage(openImage(t, layout, version)), path, &opts); err != nil {
					t.Fatal(err)
				}
				return sumFile(t, path), path
			}
			last := filepath.Join(dir, "last.sif")
			for _, version := range []string{"v1", "v2", images.Rebuilt, "v3"} {
				want, path := convertAs(version, convert.Options{Workers: 1})
				for _, way := range []struct {
					name string
					opts convert.Options
				}{
					{"64 workers", convert.Options{Workers: 64}},
					{"cache", convert.Options{Cache: kept}},
					{"cache again", convert.Options{Cache: kept, Workers: 3}},
					{"last version", convert.Options{Reuse: []string{last}}},
				} {
					if way.name == "last version" && version == "v1" {
						continue
					}
					if got, _ := convertAs(version, way.opts); got != want {
						t.Errorf("%s, %s: the bytes differ", version, way.name)
					}
				}
				if err := os.Rename(path, last); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func sumFile(t testing.TB, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}
