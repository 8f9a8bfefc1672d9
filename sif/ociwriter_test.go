package sif_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1"
	sylabs "github.com/sylabs/sif/v2/pkg/sif"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/sif"
	"hpcimg/squashfs"
)

// writeOCI makes an OCI-SIF over garbage.
func writeOCI(t testing.TB, o sif.OCIWriterOptions, blobs []string, index string) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "oci.sif"))
	must(t, err)
	defer f.Close()
	_, err = f.Write(bytes.Repeat([]byte{0xa5}, 64<<10))
	must(t, err)
	o.Blobs = len(blobs)
	w, err := sif.NewOCIWriter(f, &o)
	must(t, err)
	for _, b := range blobs {
		digest, err := w.AddBlob(strings.NewReader(b))
		must(t, err)
		if want := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(b))); digest != want {
			t.Errorf("digest %s, want %s", digest, want)
		}
	}
	size, err := w.Close(strings.NewReader(index))
	must(t, err)
	data := make([]byte, size)
	_, err = f.ReadAt(data, 0)
	must(t, err)
	return data
}

// TestOCIWriterMatchesSylabs wants the bytes that SingularityCE writes: by the same calls, with the same spare descriptors.
func TestOCIWriterMatchesSylabs(t *testing.T) {
	blobs, index := []string{"a layer", strings.Repeat("another layer", 1000), "{config}", "{manifest}"}, "{index}"
	path := filepath.Join(t.TempDir(), "sylabs.sif")
	f, err := sylabs.CreateContainerAtPath(path, sylabs.OptCreateDeterministic(), sylabs.OptCreateWithDescriptorCapacity(int64(len(blobs)+1+8)))
	must(t, err)
	for i, b := range append(blobs, index) {
		dataType := sylabs.DataOCIBlob
		if i == len(blobs) {
			dataType = sylabs.DataOCIRootIndex
		}
		in, err := sylabs.NewDescriptorInput(dataType, strings.NewReader(b))
		must(t, err)
		must(t, f.AddObject(in))
	}
	must(t, f.UnloadContainer())
	want, err := os.ReadFile(path)
	must(t, err)
	if got := writeOCI(t, sif.OCIWriterOptions{}, blobs, index); !bytes.Equal(got, want) {
		t.Errorf("%d bytes, sylabs/sif writes others (%d)", len(got), len(want))
	}
}

// TestOCIWriterReadBack reads by digest, with sylabs/sif and ourselves.
func TestOCIWriterReadBack(t *testing.T) {
	blobs := []string{"a layer", "", "{config}"}
	for _, alignment := range []int64{0, 4096} {
		data := writeOCI(t, sif.OCIWriterOptions{Alignment: alignment, ID: [16]byte{1}, Time: time.Unix(5, 0)}, blobs, "{index}")
		theirs, err := sylabs.LoadContainer(sylabs.NewBuffer(data), sylabs.OptLoadWithFlag(os.O_RDONLY))
		must(t, err)
		if theirs.LaunchScript() != "" || theirs.PrimaryArch() != "unknown" || theirs.DescriptorsFree() != 8 {
			t.Errorf("launch script %q, architecture %q, %d free", theirs.LaunchScript(), theirs.PrimaryArch(), theirs.DescriptorsFree())
		}
		ours, err := sif.NewFile(bytes.NewReader(data), int64(len(data)))
		must(t, err)
		for i, b := range append(blobs, "{index}") {
			hash, _, err := v1.SHA256(strings.NewReader(b))
			must(t, err)
			d, err := theirs.GetDescriptor(sylabs.WithOCIBlobDigest(hash))
			must(t, err)
			got, err := d.GetData()
			must(t, err)
			if string(got) != b || d.ID() != uint32(i+1) || d.GroupID() != 1 {
				t.Errorf("object %d in group %d has %q, want %q", d.ID(), d.GroupID(), got, b)
			}
			if alignment > 0 && d.Offset()%alignment != 0 {
				t.Errorf("object %d at %d", d.ID(), d.Offset())
			}
			if o := ours.Objects()[i]; o.Digest() != hash.String() {
				t.Errorf("object %d has the digest %s, want %s", o.ID, o.Digest(), hash)
			}
		}
		if _, err := ours.Primary(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("primary partition: %v", err)
		}
	}
}

// TestOCIWriterInPlace wants of a blob that the caller has written the same file as of one that was handed over.
func TestOCIWriterInPlace(t *testing.T) {
	layer, config := strings.Repeat("a layer", 1000), "{config}"
	for _, alignment := range []int64{0, 4096} {
		want := writeOCI(t, sif.OCIWriterOptions{Alignment: alignment}, []string{layer, config}, "{index}")
		f, err := os.Create(filepath.Join(t.TempDir(), "oci.sif"))
		must(t, err)
		defer f.Close()
		w, err := sif.NewOCIWriter(f, &sif.OCIWriterOptions{Blobs: 2, Alignment: alignment})
		must(t, err)
		if err := w.EndBlob(1, "sha256:0"); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("a blob ends that has not begun: %v", err)
		}
		at, err := w.BeginBlob()
		must(t, err)
		_, err = f.WriteAt([]byte(layer), at)
		must(t, err)
		if _, err := w.AddBlob(strings.NewReader("x")); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("a blob in a blob: %v", err)
		}
		if _, err := w.Close(strings.NewReader("")); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("closed in a blob: %v", err)
		}
		must(t, w.EndBlob(int64(len(layer)), fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(layer)))))
		_, err = w.AddBlob(strings.NewReader(config))
		must(t, err)
		_, err = w.Close(strings.NewReader("{index}"))
		must(t, err)
		got, err := os.ReadFile(f.Name())
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("alignment %d: another file", alignment)
		}
	}
}

// TestOCIWriterKernelMount mounts a layer where it is in the file.
func TestOCIWriterKernelMount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "layer.sqfs")
	must(t, squashfs.Create(t.Context(), path, nil, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromTar(ctx, bytes.NewReader(testtree.Tree{testtree.File("f", 0o644, "f")}.Tar(nil)), nil)
	}))
	layer, err := os.ReadFile(path)
	must(t, err)
	data := writeOCI(t, sif.OCIWriterOptions{Alignment: 4096}, []string{string(layer), "{config}"}, "{index}")
	path = filepath.Join(t.TempDir(), "oci.sif")
	must(t, os.WriteFile(path, data, 0o600))
	f, err := sif.Open(path)
	must(t, err)
	defer f.Close()
	o := f.Objects()[0]
	dir := oracle.KernelMountAt(t, path, o.Offset, o.Size)
	if got, err := os.ReadFile(filepath.Join(dir, "f")); string(got) != "f" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestOCIWriterErrors(t *testing.T) {
	for _, o := range []sif.OCIWriterOptions{{}, {Blobs: -1}, {Blobs: 1 << 20}, {Blobs: 1, Alignment: 3}, {Blobs: 1, Alignment: -1}, {Blobs: 1, Alignment: 1 << 40}} {
		if _, err := sif.NewOCIWriter(discardAt{}, &o); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	w, err := sif.NewOCIWriter(discardAt{}, &sif.OCIWriterOptions{Blobs: 2})
	must(t, err)
	_, err = w.AddBlob(strings.NewReader("x"))
	must(t, err)
	if _, err := w.AddBlob(strings.NewReader("x")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("twice: %v", err)
	}
	if _, err := w.Close(strings.NewReader("")); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("too few: %v", err)
	}
	_, err = w.AddBlob(strings.NewReader("y"))
	must(t, err)
	if _, err := w.AddBlob(strings.NewReader("z")); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("too many: %v", err)
	}
	_, err = w.Close(strings.NewReader(""))
	must(t, err)
	if _, err := w.Close(strings.NewReader("")); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("closed twice: %v", err)
	}
	for fail := range 4 {
		broken := &brokenAt{left: fail}
		w, err := sif.NewOCIWriter(broken, &sif.OCIWriterOptions{Blobs: 1, Alignment: 4096})
		must(t, err)
		_, err = w.AddBlob(strings.NewReader("x"))
		if err == nil {
			_, err = w.Close(strings.NewReader("i"))
		}
		if !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("write %d fails: %v", fail, err)
		}
	}
}

type discardAt struct{}

func (discardAt) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

type brokenAt struct{ left int }

func (b *brokenAt) WriteAt(p []byte, _ int64) (int, error) {
	if b.left--; b.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func ExampleNewOCIWriter() {
	f, err := os.CreateTemp("", "*.oci.sif")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.Remove(f.Name())
	defer f.Close()
	w, err := sif.NewOCIWriter(f, &sif.OCIWriterOptions{Blobs: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	digest, err := w.AddBlob(strings.NewReader("{}"))
	if err != nil {
		fmt.Println(err)
		return
	}
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"digest":%q,"size":2}]}`, digest)
	if _, err := w.Close(strings.NewReader(index)); err != nil {
		fmt.Println(err)
		return
	}
	again, err := sif.Open(f.Name())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer again.Close()
	for _, o := range again.Objects() {
		fmt.Println(o.Type, o.Size)
	}
	// Output:
	// OCI.Blob 2
	// OCI.RootIndex 127
}
