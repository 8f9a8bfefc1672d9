package sif_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sylabs "github.com/sylabs/sif/v2/pkg/sif"

	"hpcimg/sif"
)

type input struct {
	opts       sif.WriterOptions
	definition string
	json       map[string]string
	partition  []byte // nil: none
}

// write makes a file with our Writer. The file starts out full of garbage, to see that every byte is written.
func write(t testing.TB, in input) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.sif"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(bytes.Repeat([]byte{0xa5}, 64<<10)); err != nil {
		t.Fatal(err)
	}
	size := writeTo(t, f, in)
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	return data
}

func writeTo(t testing.TB, w io.WriterAt, in input) int64 {
	t.Helper()
	sw, err := sif.NewWriter(w, &in.opts)
	must(t, err)
	for name, text := range in.json {
		must(t, sw.AddJSON(name, []byte(text)))
	}
	if in.definition != "" {
		must(t, sw.AddDefinition([]byte(in.definition)))
	}
	if in.partition != nil {
		offset, err := sw.BeginPartition()
		must(t, err)
		if offset%sif.PartitionAlignment != 0 {
			t.Fatalf("partition at %d", offset)
		}
		_, err = w.WriteAt(in.partition, offset)
		must(t, err)
		must(t, sw.EndPartition(int64(len(in.partition))))
	}
	size, err := sw.Close()
	must(t, err)
	return size
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// writeSylabs makes the same file with sylabs/sif.
func writeSylabs(t testing.TB, in input) []byte {
	t.Helper()
	var dis []sylabs.DescriptorInput
	add := func(dt sylabs.DataType, data string, opts ...sylabs.DescriptorInputOpt) {
		di, err := sylabs.NewDescriptorInput(dt, strings.NewReader(data), opts...)
		must(t, err)
		dis = append(dis, di)
	}
	if in.definition != "" {
		add(sylabs.DataDeffile, in.definition)
	}
	for _, name := range []string{"inspect-metadata.json", "oci-config.json"} {
		if text, ok := in.json[name]; ok {
			add(sylabs.DataGenericJSON, text, sylabs.OptObjectName(name))
		}
	}
	if in.partition != nil {
		add(sylabs.DataPartition, string(in.partition), sylabs.OptPartitionMetadata(sylabs.FsSquash, sylabs.PartPrimSys, in.opts.Arch))
	}
	script := in.opts.LaunchScript
	if script == "" {
		script = sif.DefaultLaunchScript
	}
	capacity := in.opts.Capacity
	if capacity == 0 {
		capacity = 48
	}
	buf := sylabs.NewBuffer(nil)
	opts := []sylabs.CreateOpt{
		sylabs.OptCreateDeterministic(), sylabs.OptCreateWithLaunchScript(script), sylabs.OptCreateWithDescriptors(dis...),
		sylabs.OptCreateWithDescriptorCapacity(int64(capacity)), sylabs.OptCreateWithTime(in.opts.Time),
	}
	if in.opts.ID != [16]byte{} {
		opts = append(opts, sylabs.OptCreateWithID("01020304-0506-0708-090a-0b0c0d0e0f10"))
	}
	img, err := sylabs.CreateContainer(buf, opts...)
	must(t, err)
	must(t, img.UnloadContainer())
	return buf.Bytes()
}

func arches() []string {
	return []string{
		"386", "amd64", "arm", "arm64", "ppc64", "ppc64le", "mips", "mipsle", "mips64", "mips64le", "s390x", "riscv64", "loong64",
	}
}

func TestWriterBytes(t *testing.T) {
	json := map[string]string{"oci-config.json": `{"Cmd":["sh"]}`, "inspect-metadata.json": `{"type":"container"}`}
	inputs := map[string]input{
		"typical": {definition: "bootstrap: docker\nfrom: debian\n", json: json, partition: bytes.Repeat([]byte("hsqs"), 3000)},
		"second page": {
			definition: strings.Repeat("# long\n", 1000), json: json, partition: []byte("x"),
		},
		"no metadata":  {partition: []byte("squashfs")},
		"no partition": {definition: "x", json: json},
		"time and id": {
			opts:       sif.WriterOptions{Time: time.Unix(1700000000, 0), ID: [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}},
			definition: "x", json: json, partition: []byte("squashfs"),
		},
		"capacity and script": {
			opts: sif.WriterOptions{Capacity: 4, LaunchScript: "#!/bin/true\n"}, definition: "x", json: json, partition: []byte("squashfs"),
		},
	}
	for name, in := range inputs {
		for _, arch := range arches() {
			t.Run(name+"/"+arch, func(t *testing.T) {
				in.opts.Arch = arch
				got, want := write(t, in), writeSylabs(t, in)
				if !bytes.Equal(got, want) {
					for i := range min(len(got), len(want)) {
						if got[i] != want[i] {
							t.Fatalf("first difference at %#x", i)
						}
					}
					t.Fatalf("%d bytes, want %d", len(got), len(want))
				}
				if _, err := sif.NewFile(bytes.NewReader(got), int64(len(got))); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

func TestWriterLayout(t *testing.T) {
	in := input{opts: sif.WriterOptions{Arch: "arm64"}, definition: strings.Repeat("# debian\n", 100), partition: []byte("squashfs")}
	data := write(t, in)
	f, err := sif.NewFile(bytes.NewReader(data), int64(len(data)))
	must(t, err)
	h := f.Header()
	if h.TableOffset != 4096 || h.DataOffset != 32176 || h.Created.Unix() != -62135596800 || h.LaunchScript != "#!/usr/bin/env run-singularity\n" {
		t.Errorf("header %+v", h)
	}
	p, err := f.Primary()
	must(t, err)
	if p.Offset != 36864 || p.Partition != (sif.Partition{FS: sif.FSSquashfs, Type: sif.PartitionPrimarySystem, Arch: "arm64"}) {
		t.Errorf("partition %+v at %d", p.Partition, p.Offset)
	}
	def, err := f.Definition()
	if err != nil || string(def) != in.definition {
		t.Errorf("definition %q, %v", def, err)
	}
	if _, err := f.Metadata(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("metadata: %v", err)
	}
	if _, err := f.Object(9); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("object 9: %v", err)
	}
}

func TestWriterMisuse(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	must(t, err)
	defer f.Close()
	open := func(opts sif.WriterOptions) *sif.Writer {
		opts.Arch = "amd64"
		w, err := sif.NewWriter(f, &opts)
		must(t, err)
		return w
	}
	tests := []struct {
		name string
		is   error
		run  func() error
	}{
		{"no architecture", sif.ErrArch, func() error { _, err := sif.NewWriter(f, nil); return err }},
		{"unknown architecture", sif.ErrArch, func() error { _, err := sif.NewWriter(f, &sif.WriterOptions{Arch: "vax"}); return err }},
		{"negative capacity", fs.ErrInvalid, func() error {
			_, err := sif.NewWriter(f, &sif.WriterOptions{Arch: "amd64", Capacity: -1})
			return err
		}},
		{"long launch script", fs.ErrInvalid, func() error {
			_, err := sif.NewWriter(f, &sif.WriterOptions{Arch: "amd64", LaunchScript: strings.Repeat("x", 32)})
			return err
		}},
		{"end without begin", fs.ErrInvalid, func() error { return open(sif.WriterOptions{}).EndPartition(0) }},
		{"empty partition", fs.ErrInvalid, func() error {
			w := open(sif.WriterOptions{})
			_, err := w.BeginPartition()
			must(t, err)
			return w.EndPartition(0)
		}},
		{"two definitions", fs.ErrInvalid, func() error {
			w := open(sif.WriterOptions{})
			return errors.Join(w.AddDefinition(nil), w.AddDefinition(nil))
		}},
		{"same name twice", fs.ErrInvalid, func() error {
			w := open(sif.WriterOptions{})
			return errors.Join(w.AddJSON("a", nil), w.AddJSON("a", nil))
		}},
		{"name too long", fs.ErrInvalid, func() error { return open(sif.WriterOptions{}).AddJSON(strings.Repeat("x", 129), nil) }},
		{"close in partition", fs.ErrInvalid, func() error {
			w := open(sif.WriterOptions{})
			_, err := w.BeginPartition()
			must(t, err)
			_, err = w.Close()
			return err
		}},
		{"object after partition", fs.ErrInvalid, func() error {
			w := open(sif.WriterOptions{})
			_, err := w.BeginPartition()
			must(t, err)
			return w.AddJSON("a", nil)
		}},
		{"full table", sif.ErrLimit, func() error {
			w := open(sif.WriterOptions{Capacity: 1})
			must(t, w.AddDefinition([]byte("x")))
			_, err := w.BeginPartition()
			must(t, err)
			return w.EndPartition(1)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.run(); !errors.Is(err, tt.is) {
				t.Fatalf("error %v is not %v", err, tt.is)
			}
		})
	}
}
