package sif_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	sylabs "github.com/sylabs/sif/v2/pkg/sif"

	"hpcimg/internal/oracle"
	"hpcimg/sif"
)

// fixtures returns the test corpus of sylabs/sif, which comes with the module.
func fixtures(t testing.TB) []string {
	t.Helper()
	out, err := exec.Command(oracle.Tool(t, "go"), "list", "-m", "-f", "{{.Dir}}", "github.com/sylabs/sif/v2").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	names, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "test", "images", "*.sif"))
	if err != nil || len(names) < 20 {
		t.Fatalf("found %d images: %v", len(names), err)
	}
	return names
}

// view is what we and sylabs/sif say about an object.
type view struct {
	ID, Group, Link   uint32
	LinkedGroup       bool
	Type, Name        string
	Offset, Size      int64
	Created, Modified int64
	Partition         string
	Fingerprint, Data string
}

func ours(t *testing.T, f *sif.File) []view {
	t.Helper()
	var list []view
	for _, o := range f.Objects() {
		v := view{
			ID: o.ID, Group: o.GroupID, Link: o.LinkedID, LinkedGroup: o.LinkedGroup, Type: o.Type.String(), Name: o.Name,
			Offset: o.Offset, Size: o.Size, Created: o.Created.Unix(), Modified: o.Modified.Unix(), Fingerprint: string(o.Fingerprint()),
		}
		if o.Type == sif.DataPartition {
			v.Partition = strings.Join([]string{o.Partition.FS.String(), o.Partition.Type.String(), o.Partition.Arch}, " ")
		}
		data := make([]byte, o.Size)
		if _, err := o.Open().ReadAt(data, 0); err != nil && o.Size > 0 {
			t.Fatal(err)
		}
		v.Data = string(data)
		list = append(list, v)
	}
	return list
}

func theirs(t *testing.T, img *sylabs.FileImage) []view {
	t.Helper()
	var list []view
	img.WithDescriptors(func(d sylabs.Descriptor) bool {
		link, isGroup := d.LinkedID()
		data, err := d.GetData()
		if err != nil {
			t.Fatal(err)
		}
		v := view{
			ID: d.ID(), Group: d.GroupID(), Link: link, LinkedGroup: isGroup, Type: d.DataType().String(), Name: d.Name(),
			Offset: d.Offset(), Size: d.Size(), Created: d.CreatedAt().Unix(), Modified: d.ModifiedAt().Unix(), Data: string(data),
		}
		if fs, pt, arch, err := d.PartitionMetadata(); err == nil {
			v.Partition = strings.Join([]string{fs.String(), pt.String(), arch}, " ")
		}
		if _, fp, err := d.SignatureMetadata(); err == nil {
			v.Fingerprint = string(fp)
		}
		list = append(list, v)
		return false
	})
	return list
}

func TestFixturesAgree(t *testing.T) {
	for _, path := range fixtures(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f, err := sif.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			img, err := sylabs.LoadContainer(sylabs.NewBuffer(data))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(theirs(t, img), ours(t, f)); diff != "" {
				t.Fatalf("objects (-sylabs +ours):\n%s", diff)
			}
			h := f.Header()
			arch := h.Arch
			if arch == "" {
				arch = "unknown"
			}
			got := []any{h.LaunchScript, arch, h.Created.Unix(), h.Modified.Unix(), int64(h.Capacity), int64(h.Free), h.TableOffset, h.DataOffset, h.DataSize}
			want := []any{
				img.LaunchScript(), img.PrimaryArch(), img.CreatedAt().Unix(), img.ModifiedAt().Unix(), img.DescriptorsTotal(),
				img.DescriptorsFree(), img.DescriptorsOffset(), img.DataOffset(), img.DataSize(),
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("header (-sylabs +ours):\n%s", diff)
			}
			whole := make([]byte, f.Size())
			if _, err := f.ReadAt(whole, 0); err != nil || !bytes.Equal(whole, data) {
				t.Fatalf("ReadAt: %v", err)
			}
		})
	}
}
