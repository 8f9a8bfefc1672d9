package convert_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/image/cache"
	"hpcimg/internal/oracle"
)

var (
	memoryEntries = flag.Int("memory-entries", 300_000, "how many entries the image of TestMemory has")
	memoryLayers  = flag.Int("memory-layers", 3, "how many layers, from 1 to 3, the image of TestMemory has")
)

// memoryChildEnv makes TestMemoryChild convert: "<layout> <destination> <cache or -> <image to reuse or ->".
const memoryChildEnv = "HPCIMG_CONVERT_MEMORY_CHILD"

// What a conversion may have resident, in bytes: so much whatever the image, and so much for each entry. With a million entries that is 210 MB.
const (
	memoryBase  = 75e6
	memoryEntry = 135
)

// TestMemory converts an image of many small files in processes of their own: from its layers, from its layers into a cache, from
// the cache, and from the file that was made first.
func TestMemory(t *testing.T) {
	entries := *memoryEntries
	if testing.Short() || oracle.Race {
		entries = min(entries, 30_000)
	}
	dir := t.TempDir()
	layout := filepath.Join(dir, "layout")
	manyEntries(t, layout, entries)
	first := filepath.Join(dir, "1.sif")
	want := ""
	for i, mode := range []struct{ name, cache, reuse string }{
		{"cold", "-", "-"},
		{"cold with a cache", filepath.Join(dir, "cache"), "-"},
		{"warm", filepath.Join(dir, "cache"), "-"},
		{"reuse", "-", first},
	} {
		dst := filepath.Join(dir, strconv.Itoa(i+1)+".sif")
		begin := time.Now()
		peak, cpu := convertInChild(t, layout, dst, mode.cache, mode.reuse)
		t.Logf("%s: %.0f MB; %.2f s, CPU %.2f s", mode.name, float64(peak)/1e6, time.Since(begin).Seconds(), cpu.Seconds())
		if most := int64(memoryBase + memoryEntry*entries); peak > most && !oracle.Race {
			t.Errorf("%s: %d bytes resident, want %d at most", mode.name, peak, most)
		}
		got := sum(t, dst)
		if want == "" {
			want = got
		}
		if got != want {
			t.Errorf("%s: another file", mode.name)
		}
		if i > 0 {
			if err := os.Remove(dst); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Log("sha256", want)
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %q, %v", left, err)
	}
}

func convertInChild(t *testing.T, args ...string) (peak int64, cpu time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestMemoryChild$", "-test.v")
	cmd.Env = append(os.Environ(), memoryChildEnv+"="+strings.Join(args, " "))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, text, _ := strings.Cut(string(out), "VmHWM:")
	text, _, _ = strings.Cut(text, "kB")
	kb, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return kb << 10, time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestMemoryChild is the other process of TestMemory.
func TestMemoryChild(t *testing.T) {
	args := strings.Fields(os.Getenv(memoryChildEnv))
	if len(args) != 4 {
		return
	}
	o := &convert.Options{Workers: 2}
	if args[2] != "-" {
		c, err := cache.Open(args[2], nil)
		if err != nil {
			t.Fatal(err)
		}
		o.Cache = c
	}
	if args[3] != "-" {
		o.Reuse = []string{args[3]}
	}
	img, err := image.Open(t.Context(), "oci:"+args[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := convert.Convert(t.Context(), convert.FromImage(img), args[1], o); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(status, []byte("VmHWM:"))
	fmt.Println(string(status[i : i+bytes.IndexByte(status[i:], '\n')]))
}

// manyEntries writes a layout with an image of some layers. The upper ones replace and hide some of what is below.
func manyEntries(t *testing.T, dir string, entries int) {
	t.Helper()
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	config := ocispec.Image{Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}, RootFS: ocispec.RootFS{Type: "layers"}}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	bounds := map[int][]int{1: {0, 10}, 2: {0, 5, 10}, 3: {0, 6, 9, 10}}[*memoryLayers]
	for i := range len(bounds) - 1 {
		d, diffID := manyEntriesLayer(t, blobs, i, entries*bounds[i]/10, entries*bounds[i+1]/10)
		manifest.Layers = append(manifest.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
	}
	manifest.Config = jsonBlob(t, blobs, ocispec.MediaTypeImageConfig, config)
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	index.Manifests = []ocispec.Descriptor{jsonBlob(t, blobs, ocispec.MediaTypeImageManifest, manifest)}
	raw, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"index.json": raw, "oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func jsonBlob(t *testing.T, blobs, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if err := os.WriteFile(filepath.Join(blobs, d.Digest.Encoded()), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	return d
}

// manyEntriesLayer writes a layer with the entries from one number to another.
func manyEntriesLayer(t *testing.T, blobs string, layer, from, to int) (ocispec.Descriptor, digest.Digest) {
	t.Helper()
	f, err := os.Create(filepath.Join(blobs, "new"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stored, plain := sha256.New(), sha256.New()
	zw, _ := gzip.NewWriterLevel(io.MultiWriter(f, stored), gzip.BestSpeed)
	tw := tar.NewWriter(io.MultiWriter(zw, plain))
	for i := from; i < to; i++ {
		if err := writeManyEntry(tw, layer, i, from); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	name := hex.EncodeToString(stored.Sum(nil))
	if err := os.Rename(f.Name(), filepath.Join(blobs, name)); err != nil {
		t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.NewDigestFromEncoded(digest.SHA256, name), Size: info.Size()}
	return d, digest.NewDigest(digest.SHA256, plain)
}

// writeManyEntry writes entry i of an image, in the manner of a conda environment. Paths have 60 to 90 bytes.
func writeManyEntry(tw *tar.Writer, layer, i, from int) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, Uid: i % 3 * 500, ModTime: time.Unix(1_700_000_000+int64(i), 0)}
	h.Name = manyEntriesFile(i)
	switch k := i % 50; {
	case k == 0:
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, manyEntriesDir(i), 0o755
	case k == 1:
		h.Typeflag, h.Linkname = tar.TypeSymlink, fmt.Sprintf("../module_%07d", i)
	case k == 3 && layer == 0:
		h.Typeflag, h.Linkname = tar.TypeLink, manyEntriesFile(i-1)
	case k == 12 && layer > 0:
		h.Typeflag, h.Linkname = tar.TypeLink, manyEntriesFile(i-from)
	case k < 8 && layer > 0:
		h.Name = manyEntriesFile(i - from)
	case k < 10 && layer > 0:
		h.Name = filepath.Join(manyEntriesDir(i-from), ".wh."+filepath.Base(manyEntriesFile(i-from)))
	case k == 20:
		h.PAXRecords = map[string]string{"SCHILY.xattr.user.number": strconv.Itoa(i % 1000)}
	}
	data := ""
	if h.Typeflag == tar.TypeReg {
		data = strings.Repeat(fmt.Sprintf("print(%d)\n", i), 1+i%9)
		h.Size = int64(len(data))
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.WriteString(tw, data)
	return err
}

func manyEntriesDir(i int) string {
	i /= 50
	return fmt.Sprintf("opt/conda/lib/python3.12/site-packages/package_%05d/sub_%d", i/7, i)
}

func manyEntriesFile(i int) string {
	return fmt.Sprintf("%s/module_%07d_%s.py", manyEntriesDir(i), i, "abcdefghijklmno"[:i%15])
}
