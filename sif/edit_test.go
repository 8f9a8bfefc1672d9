package sif_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"hpcimg/sif"
)

func sampleFile(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.sif")
	must(t, os.WriteFile(path, sample(t), 0o755))
	must(t, os.Chmod(path, 0o741))
	return path
}

func TestAddAndDelete(t *testing.T) {
	path := sampleFile(t)
	when := time.Unix(1700000000, 0).UTC()
	object := &sif.NewObject{Type: sif.DataGeneric, Name: "notes", LinkedID: 4, Data: strings.NewReader("some notes")}
	must(t, sif.AddObject(t.Context(), path, object, &sif.EditOptions{Time: when}))
	f, err := sif.Open(path)
	must(t, err)
	o, err := f.Object(5)
	must(t, err)
	data, err := io.ReadAll(o.Open())
	must(t, err)
	if string(data) != "some notes" || o.Name != "notes" || o.GroupID != 0 || o.LinkedID != 4 || !o.Created.Equal(when) || !f.Header().Modified.Equal(when) {
		t.Errorf("object %+v, %q", o, data)
	}
	must(t, f.Close())
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o741 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	must(t, sif.DeleteObject(t.Context(), path, 5, nil))
	after, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(after, sample(t)) {
		t.Error("adding and deleting changed the file")
	}
	// A middle object leaves a hole of zeros, and its number is given out again.
	must(t, sif.DeleteObject(t.Context(), path, 1, nil))
	after, err = os.ReadFile(path)
	must(t, err)
	if bytes.Contains(after, []byte("bootstrap: docker")) {
		t.Error("deleted data is still there")
	}
	must(t, sif.AddObject(t.Context(), path, &sif.NewObject{Type: sif.DataDefinition, Group: 1, Data: strings.NewReader("new")}, nil))
	f, err = sif.Open(path)
	must(t, err)
	defer f.Close()
	if def, err := f.Definition(); err != nil || string(def) != "new" {
		t.Errorf("definition %q, %v", def, err)
	}
}

func TestEditErrors(t *testing.T) {
	add := func(o sif.NewObject) func(context.Context, string) error {
		if o.Data == nil {
			o.Data = strings.NewReader("x")
		}
		return func(ctx context.Context, path string) error { return sif.AddObject(ctx, path, &o, nil) }
	}
	if err := sif.AddObject(t.Context(), sampleFile(t), nil, nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("no object: %v", err)
	}
	if err := add(sif.NewObject{Type: sif.DataGeneric, Name: "a\x00b"})(t.Context(), sampleFile(t)); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("NUL in a name: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name string
		ctx  context.Context
		is   error
		run  func(context.Context, string) error
	}{
		{"partition", t.Context(), errors.ErrUnsupported, add(sif.NewObject{Type: sif.DataPartition})},
		{"signature", t.Context(), errors.ErrUnsupported, add(sif.NewObject{Type: sif.DataSignature})},
		{"long name", t.Context(), fs.ErrInvalid, add(sif.NewObject{Type: sif.DataGeneric, Name: strings.Repeat("x", 129)})},
		{"group with mask", t.Context(), fs.ErrInvalid, add(sif.NewObject{Type: sif.DataGeneric, Group: 0xf0000001})},
		{"dangling link", t.Context(), fs.ErrNotExist, add(sif.NewObject{Type: sif.DataGeneric, LinkedID: 77})},
		{"failing reader", t.Context(), io.ErrClosedPipe, add(sif.NewObject{Type: sif.DataGeneric, Data: iotest.ErrReader(io.ErrClosedPipe)})},
		{"cancelled", cancelled, context.Canceled, add(sif.NewObject{Type: sif.DataGeneric})},
		{"absent object", t.Context(), fs.ErrNotExist, func(ctx context.Context, path string) error { return sif.DeleteObject(ctx, path, 77, nil) }},
		{"absent file", t.Context(), fs.ErrNotExist, func(ctx context.Context, path string) error { return sif.DeleteObject(ctx, path+"x", 1, nil) }},
		{"not a file", t.Context(), nil, func(ctx context.Context, path string) error { return sif.DeleteObject(ctx, filepath.Dir(path), 1, nil) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := sampleFile(t)
			err := tt.run(tt.ctx, path)
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v is not %v", err, tt.is)
			}
			data, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(data, sample(t)) {
				t.Errorf("file was changed: %v", err)
			}
			if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
	full := filepath.Join(t.TempDir(), "full.sif")
	must(t, os.WriteFile(full, write(t, input{opts: sif.WriterOptions{Arch: "amd64", Capacity: 1}, partition: []byte("x")}), 0o644))
	if err := add(sif.NewObject{Type: sif.DataGeneric})(t.Context(), full); !errors.Is(err, sif.ErrLimit) {
		t.Errorf("full table: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	if _, err := sif.Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	if _, err := sif.Open(t.TempDir()); err == nil {
		t.Error("opened a directory")
	}
}

func ExampleWriter() {
	dir, _ := os.MkdirTemp("", "example")
	defer os.RemoveAll(dir)
	out, _ := os.Create(filepath.Join(dir, "image.sif"))
	defer out.Close()

	w, err := sif.NewWriter(out, &sif.WriterOptions{Arch: "amd64"})
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = w.AddDefinition([]byte(sif.DefinitionFor("docker", "debian:12")))
	offset, _ := w.BeginPartition()
	partition := []byte("hsqs...")
	_, _ = out.WriteAt(partition, offset)
	_ = w.EndPartition(int64(len(partition)))
	size, err := w.Close()
	fmt.Println(size, err)

	f, err := sif.Open(out.Name())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	for _, o := range f.Objects() {
		fmt.Println(o.ID, o.Type, o.Offset, o.Size)
	}
	p, err := f.Primary()
	fmt.Println(p.Partition.FS, p.Partition.Arch, err)
	// Output:
	// 32775 <nil>
	// 1 Def.FILE 32176 34
	// 2 FS 32768 7
	// Squashfs amd64 <nil>
}

func ExampleRootFiles() {
	files, metadata, err := sif.RootFiles(&sif.RootInput{
		Config:     sif.ImageConfig{Env: []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8"}, Cmd: []string{"sh"}},
		Definition: sif.DefinitionFor("docker", "debian:12"),
		Arch:       "amd64",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range files {
		if f.Mode&fs.ModeSymlink != 0 {
			fmt.Println(f.Path, "->", f.Target)
		}
	}
	fmt.Println(metadata.Data.Attributes.Environment["/.singularity.d/env/10-docker2singularity.sh"])
	// Output:
	// singularity -> .singularity.d/runscript
	// .run -> .singularity.d/actions/run
	// .exec -> .singularity.d/actions/exec
	// .test -> .singularity.d/actions/test
	// .shell -> .singularity.d/actions/shell
	// environment -> .singularity.d/env/90-environment.sh
	// #!/bin/sh
	// export PATH="/usr/bin:/bin"
	// export LANG="${LANG:-"C.UTF-8"}"
}

func ExampleParseRunscript() {
	entrypoint, cmd, ok := sif.ParseRunscript(sif.Runscript([]string{"/entry point"}, []string{"it's"}))
	fmt.Printf("%q %q %v\n", entrypoint, cmd, ok)
	// Output: ["/entry point"] ["it's"] true
}

func ExampleAddObject() {
	dir, _ := os.MkdirTemp("", "example")
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "image.sif")
	out, _ := os.Create(path)
	w, _ := sif.NewWriter(out, &sif.WriterOptions{Arch: "amd64"})
	_ = w.AddDefinition([]byte("bootstrap: scratch\n"))
	_, _ = w.Close()
	_ = out.Close()

	err := sif.AddObject(context.Background(), path, &sif.NewObject{Type: sif.DataGeneric, Name: "notes", Data: strings.NewReader("hello")}, nil)
	fmt.Println(err)
	f, _ := sif.Open(path)
	defer f.Close()
	o, err := f.Object(2)
	text, _ := io.ReadAll(o.Open())
	fmt.Println(o.Name, string(text), err)
	// Output:
	// <nil>
	// notes hello <nil>
}
