package sif_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"hpcimg/sif"
)

// Offsets of fields, stated here a second time so that a mistake in the layout shows.
const (
	offMagic, offVersion, offFree, offTotal, offTable, offTableSize, offData, offDataSize = 32, 42, 80, 88, 96, 104, 112, 120

	table                                                                        = 4096
	fieldType, fieldUsed, fieldID, fieldGroup, fieldLink, fieldOffset, fieldSize = 0, 4, 5, 9, 13, 17, 25
	fieldFS, fieldPartType                                                       = 201, 205
	slot                                                                         = 585
)

var allMutations = flag.Bool("mutate-all", false, "mutate every byte of header and descriptors in every way, not a sample")

func sample(t testing.TB) []byte {
	t.Helper()
	return write(t, input{
		opts: sif.WriterOptions{Arch: "amd64"}, definition: "bootstrap: docker\nfrom: debian\n",
		json:      map[string]string{sif.NameInspectMetadata: `{"type":"container"}`, sif.NameOCIConfig: `{}`},
		partition: bytes.Repeat([]byte("hsqs"), 2048),
	})
}

func put64(off int, v int64) func([]byte) []byte {
	return func(b []byte) []byte { binary.LittleEndian.PutUint64(b[off:], uint64(v)); return b }
}

func put32(off int, v uint32) func([]byte) []byte {
	return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[off:], v); return b }
}

func put8(off int, v byte) func([]byte) []byte {
	return func(b []byte) []byte { b[off] = v; return b }
}

func TestMalformed(t *testing.T) {
	first, second, last := table, table+slot, table+3*slot
	tests := []struct {
		name   string
		is     error
		mutate func([]byte) []byte
	}{
		{"empty", sif.ErrFormat, func([]byte) []byte { return nil }},
		{"short header", sif.ErrFormat, func(b []byte) []byte { return b[:127] }},
		{"short table", sif.ErrFormat, func(b []byte) []byte { return b[:8000] }},
		{"magic", sif.ErrFormat, put8(offMagic, 'X')},
		{"version", errors.ErrUnsupported, put8(offVersion+1, '2')},
		{"total -1", sif.ErrFormat, put64(offTotal, -1)},
		{"total 2^40", sif.ErrLimit, put64(offTotal, 1<<40)},
		{"total 2^21", sif.ErrLimit, put64(offTotal, 1<<21)},
		{"total 47", sif.ErrFormat, put64(offTotal, 47)},
		{"free -1", sif.ErrFormat, put64(offFree, -1)},
		{"free over total", sif.ErrFormat, put64(offFree, 49)},
		{"all free", sif.ErrFormat, put64(offFree, 48)},
		{"table over header", sif.ErrFormat, put64(offTable, 64)},
		{"table at -1", sif.ErrFormat, put64(offTable, -1)},
		{"table behind the end", sif.ErrFormat, put64(offTable, 1<<40)},
		{"table wraps", sif.ErrFormat, put64(offTable, math.MaxInt64-100)},
		{"table size", sif.ErrFormat, put64(offTableSize, 48*585+1)},
		{"data in table", sif.ErrFormat, put64(offData, 5000)},
		{"data negative", sif.ErrFormat, put64(offData, -5000)},
		{"data size", sif.ErrFormat, put64(offDataSize, 1<<50)},
		{"data size negative", sif.ErrFormat, put64(offDataSize, -1)},
		{"data wraps", sif.ErrFormat, put64(offDataSize, math.MaxInt64)},
		{"used 2", sif.ErrFormat, put8(first+fieldUsed, 2)},
		{"unused", sif.ErrFormat, put8(first+fieldUsed, 0)},
		{"id 0", sif.ErrFormat, put32(first+fieldID, 0)},
		{"id twice", sif.ErrFormat, put32(second+fieldID, 1)},
		{"id with group bits", sif.ErrFormat, put32(first+fieldID, 0xf0000001)},
		{"group without mask", sif.ErrFormat, put32(first+fieldGroup, 1)},
		{"half a link mask", sif.ErrFormat, put32(first+fieldLink, 0x80000001)},
		{"link to itself", sif.ErrFormat, put32(first+fieldLink, 1)},
		{"object at -1", sif.ErrFormat, put64(first+fieldOffset, -1)},
		{"object in header", sif.ErrFormat, put64(first+fieldOffset, 0)},
		{"object in table", sif.ErrFormat, put64(first+fieldOffset, 5000)},
		{"object behind the end", sif.ErrFormat, put64(last+fieldOffset, 1<<30)},
		{"object wraps", sif.ErrFormat, put64(last+fieldOffset, math.MaxInt64-8)},
		{"size -1", sif.ErrFormat, put64(first+fieldSize, -1)},
		{"size 2^40", sif.ErrFormat, put64(first+fieldSize, 1<<40)},
		{"objects overlap", sif.ErrFormat, put64(first+fieldSize, 32)},
		{"truncated", sif.ErrFormat, func(b []byte) []byte { return b[:len(b)-1] }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := tt.mutate(sample(t))
			_, err := sif.NewFile(bytes.NewReader(data), int64(len(data)))
			if !errors.Is(err, tt.is) {
				t.Fatalf("error %v is not %v", err, tt.is)
			}
			if e, ok := errors.AsType[*sif.FormatError](err); ok && e.Structure == "" {
				t.Fatalf("no structure in %v", err)
			}
		})
	}
}

// A file that gets shorter than the size we were told is damage; another error of the reader is passed on.
func TestReadErrors(t *testing.T) {
	data := sample(t)
	if _, err := sif.NewFile(bytes.NewReader(data[:100]), int64(len(data))); !errors.Is(err, sif.ErrFormat) {
		t.Errorf("short file: %v", err)
	}
	if _, err := sif.NewFile(brokenReader{}, 1<<20); !errors.Is(err, fs.ErrPermission) || errors.Is(err, sif.ErrFormat) {
		t.Errorf("broken reader: %v", err)
	}
}

type brokenReader struct{}

func (brokenReader) ReadAt([]byte, int64) (int, error) { return 0, fs.ErrPermission }

func TestPrimaryErrors(t *testing.T) {
	partition := table + 3*slot
	tests := []struct {
		name   string
		is     error
		fsType sif.FSType
		mutate func([]byte) []byte
	}{
		{"none", fs.ErrNotExist, 0, put32(partition+fieldPartType, uint32(sif.PartitionData))},
		{"ext3", errors.ErrUnsupported, sif.FSExt3, put32(partition+fieldFS, uint32(sif.FSExt3))},
		{"encrypted", errors.ErrUnsupported, sif.FSEncrypted, put32(partition+fieldFS, uint32(sif.FSEncrypted))},
		{"gocryptfs", errors.ErrUnsupported, sif.FSGocryptSquashfs, put32(partition+fieldFS, uint32(sif.FSGocryptSquashfs))},
		{"unknown", errors.ErrUnsupported, 77, put32(partition+fieldFS, 77)},
		{"several", sif.ErrFormat, sif.FSSquashfs, func(b []byte) []byte {
			put32(table+fieldType, uint32(sif.DataPartition))(b)
			put32(table+fieldFS, uint32(sif.FSSquashfs))(b)
			return put32(table+fieldPartType, uint32(sif.PartitionPrimarySystem))(b)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := tt.mutate(sample(t))
			f, err := sif.NewFile(bytes.NewReader(data), int64(len(data)))
			must(t, err)
			_, err = f.Primary()
			e, ok := errors.AsType[*sif.PrimaryError](err)
			if !ok || !errors.Is(err, tt.is) || e.FS != tt.fsType {
				t.Fatalf("error %v", err)
			}
		})
	}
}

// TestDescriptionOfThePartition: objects of another group do not describe the partition that is run, wherever they stand.
func TestDescriptionOfThePartition(t *testing.T) {
	first, metadata := table, table+slot
	data := sample(t)
	path := filepath.Join(t.TempDir(), "image.sif")
	must(t, os.WriteFile(path, data, 0o600))
	for _, o := range []sif.NewObject{
		{Type: sif.DataDefinition, Data: strings.NewReader("bootstrap: evil\n")},
		{Type: sif.DataJSON, Name: sif.NameOCIConfig, Data: strings.NewReader(`{"Cmd":["evil"]}`)},
	} {
		o.Group = 2
		must(t, sif.AddObject(t.Context(), path, &o, nil))
	}
	data, err := os.ReadFile(path)
	must(t, err)
	// The added objects come first in the table.
	swap := func(a, b int) {
		tmp := bytes.Clone(data[a : a+slot])
		copy(data[a:a+slot], data[b:b+slot])
		copy(data[b:b+slot], tmp)
	}
	swap(first, table+4*slot)
	swap(metadata, table+5*slot)
	f, err := sif.NewFile(bytes.NewReader(data), int64(len(data)))
	must(t, err)
	if text, err := f.Definition(); err != nil || strings.Contains(string(text), "evil") {
		t.Errorf("definition %q, %v", text, err)
	}
	if c, err := f.OCIConfig(); err != nil || len(c.Cmd) != 0 {
		t.Errorf("config %+v, %v", c, err)
	}
	// If there is no other, they do.
	data = write(t, input{opts: sif.WriterOptions{Arch: "amd64"}, definition: "bootstrap: x\n", partition: make([]byte, 4096)})
	put32(first+fieldGroup, 0xf0000002)(data)
	f, err = sif.NewFile(bytes.NewReader(data), int64(len(data)))
	must(t, err)
	if text, err := f.Definition(); err != nil || string(text) != "bootstrap: x\n" {
		t.Errorf("definition %q, %v", text, err)
	}
}

func TestObjectLimits(t *testing.T) {
	big := write(t, input{
		opts: sif.WriterOptions{Arch: "amd64"}, definition: string(make([]byte, 5<<20)),
		json: map[string]string{sif.NameInspectMetadata: string(make([]byte, 5<<20)), sif.NameOCIConfig: "{"},
	})
	f, err := sif.NewFile(bytes.NewReader(big), int64(len(big)))
	must(t, err)
	if _, err := f.Definition(); !errors.Is(err, sif.ErrLimit) {
		t.Errorf("definition: %v", err)
	}
	if _, err := f.Metadata(); !errors.Is(err, sif.ErrLimit) {
		t.Errorf("metadata: %v", err)
	}
	if _, err := f.OCIConfig(); !errors.Is(err, sif.ErrFormat) {
		t.Errorf("config: %v", err)
	}
}

// useAll calls everything that reads a file. Errors must be of a documented kind.
func useAll(t testing.TB, data []byte) {
	t.Helper()
	f, err := sif.NewFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		documented(t, err)
		return
	}
	for _, o := range f.Objects() {
		if o.Offset < f.Header().DataOffset && o.Size > 0 || o.Offset+o.Size > int64(len(data)) {
			t.Fatalf("object %d lies outside", o.ID)
		}
		if _, err := io.Copy(io.Discard, o.Open()); err != nil {
			t.Fatal(err)
		}
		_, _, _ = o.Fingerprint(), o.Digest(), o.Type.String()+o.Partition.FS.String()+o.Partition.Type.String()
	}
	_, err = f.Primary()
	documented(t, err)
	_, err = f.Definition()
	documented(t, err)
	_, err = f.Metadata()
	documented(t, err)
	_, err = f.OCIConfig()
	documented(t, err)
}

func documented(t testing.TB, err error) {
	t.Helper()
	for _, target := range []error{nil, sif.ErrFormat, sif.ErrLimit, errors.ErrUnsupported, fs.ErrNotExist} {
		if errors.Is(err, target) {
			return
		}
	}
	t.Fatalf("undocumented error %v", err)
}

// TestMutations overwrites fields of images with values that have caused harm elsewhere. No panic, and no more than 64 MiB at once.
func TestMutations(t *testing.T) {
	values := []uint64{0, 1, 0x7f, 0xff, 0xffff, 1 << 21, 1 << 31, 1 << 40, math.MaxInt64, math.MaxUint64}
	step := 37
	if *allMutations {
		step = 1
	}
	images := [][]byte{sample(t)}
	for i, path := range fixtures(t) {
		data, err := os.ReadFile(path)
		must(t, err)
		if len(data) < 64<<10 && i%4 == 0 || *allMutations {
			images = append(images, data)
		}
	}
	var before, after runtime.MemStats
	for n, image := range images {
		used := min(len(image), table+5*slot)
		var offsets []int
		for off := range 128 {
			offsets = append(offsets, off)
		}
		for off := table; off < used-8; off += step {
			offsets = append(offsets, off)
		}
		data := make([]byte, len(image))
		for _, off := range offsets {
			for _, v := range values {
				copy(data, image)
				binary.LittleEndian.PutUint64(data[off:], v)
				runtime.ReadMemStats(&before)
				useAll(t, data)
				runtime.ReadMemStats(&after)
				if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
					t.Fatalf("image %d, %#x at %#x: %d bytes allocated", n, v, off, grown)
				}
			}
		}
		for end := 0; end < used; end += 101 {
			useAll(t, image[:end])
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(sample(f))
	for _, path := range fixtures(f) {
		if data, err := os.ReadFile(path); err == nil && len(data) < 64<<10 {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) { useAll(t, data) })
}

// FuzzDescriptors spends its mutations on header and table: the data section is zeros.
func FuzzDescriptors(f *testing.F) {
	image := sample(f)
	f.Add(image[:128], image[table:table+4*slot])
	f.Add(image[:128], bytes.Repeat([]byte{1}, slot))
	f.Fuzz(func(t *testing.T, header, descriptors []byte) {
		data := make([]byte, 64<<10)
		copy(data[:128], header)
		copy(data[table:32176], descriptors)
		useAll(t, data)
	})
}

func ExampleNewFile() {
	_, err := sif.NewFile(bytes.NewReader([]byte("not a SIF")), 9)
	if e, ok := errors.AsType[*sif.FormatError](err); ok {
		fmt.Println(e.Structure, errors.Is(err, sif.ErrFormat))
	}
	fmt.Println(err)
	// Output:
	// global header true
	// sif: global header at 0x0: file of 9 bytes is shorter than the header
}
