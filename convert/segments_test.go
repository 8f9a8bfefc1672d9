package convert_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/image/cache"
	"hpcimg/sif"
)

// shelf is a source of blobs in memory, that counts what is read of them.
type shelf struct {
	blobs map[digest.Digest][]byte
	read  atomic.Int64
	cache *cache.Cache // of who pushes
}

func (s *shelf) Open(_ context.Context, d image.Descriptor) (io.ReadCloser, error) {
	b, ok := s.blobs[d.Digest]
	if !ok {
		return nil, fs.ErrNotExist
	}
	if d.MediaType == convert.MediaTypeSegment || d.MediaType == convert.MediaTypeSIFLayer {
		s.read.Add(int64(len(b)))
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (s *shelf) add(t testing.TB, mediaType string, document any) image.Descriptor {
	t.Helper()
	raw, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	d := image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	s.blobs[d.Digest] = raw
	return d
}

// content is an image or an artifact.
type content interface {
	Manifest() image.Manifest
	RawManifest() []byte
	Descriptor() image.Descriptor
	OpenBlob(ctx context.Context, d image.Descriptor) (io.ReadCloser, error)
}

// put stores what is pushed, as a registry would, and returns how much of it is new.
func (s *shelf) put(t testing.TB, c content) (fresh int64) {
	t.Helper()
	m := c.Manifest()
	for _, d := range append(m.Layers, m.Config) {
		if s.blobs[d.Digest] != nil {
			continue
		}
		rc, err := c.OpenBlob(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		if err != nil {
			t.Fatal(err)
		}
		rc.Close()
		s.blobs[d.Digest] = b
		fresh += d.Size
	}
	s.blobs[c.Descriptor().Digest] = c.RawManifest()
	return fresh
}

func (s *shelf) image(t testing.TB, root image.Descriptor) *image.Image {
	t.Helper()
	img, err := image.New(t.Context(), root, s, &image.Options{Platform: &image.Platform{OS: "linux", Architecture: "amd64"}})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// pushed cuts an image, as a squashfs or a SIF file, puts it on the shelf and returns it as it is there. path is the file that it is.
func (s *shelf) pushed(t testing.TB, img *image.Image, form convert.Form, from string) (there *image.Image, path string, fresh int64) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "local."+string(form))
	if s.cache == nil {
		c, err := cache.Open(filepath.Join(t.TempDir(), "cache"), nil)
		if err != nil {
			t.Fatal(err)
		}
		s.cache = c
	}
	opts := &convert.Options{Form: form, Cache: s.cache}
	if from != "" {
		opts.Reuse = []string{from}
	}
	if _, err := convert.Convert(t.Context(), convert.FromImage(img), path, opts); err != nil {
		t.Fatal(err)
	}
	var b *convert.BuiltImage
	var err error
	if form == convert.FormSIF {
		b, err = convert.CutSIF(t.Context(), path)
	} else {
		b, err = convert.ToImage(t.Context(), convert.FromImage(img), &convert.Options{
			Cache: s.cache, TempDir: t.TempDir(), OCI: convert.OCIOptions{Layers: convert.LayersSegments},
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	fresh = s.put(t, b)
	return s.image(t, b.Descriptor()), path, fresh
}

func fetch(t testing.TB, img *image.Image, form convert.Form, opts convert.Options) (string, *convert.Result) {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "fetched")
	opts.Form = form
	result, err := convert.Convert(t.Context(), convert.FromImage(img), dst, &opts)
	if err != nil {
		t.Fatal(err)
	}
	return dst, result
}

// TestSegments pushes two versions and fetches them, without help, with the cache and with the first one's file: always the
// file that is made here, and of the second version only what is new.
func TestSegments(t *testing.T) {
	imgs := versions(t, 2)
	for _, form := range []convert.Form{convert.FormSquashfs, convert.FormSIF} {
		s := &shelf{blobs: map[digest.Digest][]byte{}}
		v1, local1, first := s.pushed(t, imgs[0], form, "")
		v2, local2, second := s.pushed(t, imgs[1], form, "")
		want1, want2 := sum(t, local1), sum(t, local2)
		if second > first/4 {
			t.Errorf("%s: version 2 takes %d bytes more, version 1 %d", form, second, first)
		}
		warm, err := cache.Open(filepath.Join(t.TempDir(), "cache"), nil)
		if err != nil {
			t.Fatal(err)
		}
		got1, _ := fetch(t, v1, form, convert.Options{Cache: warm})
		if sum(t, got1) != want1 {
			t.Errorf("%s: version 1 has come back as another file", form)
		}
		for what, opts := range map[string]convert.Options{
			"alone": {}, "with a cache": {Cache: warm}, "with version 1": {Reuse: []string{got1}}, "with version 1 of here": {Reuse: []string{local1, "/dev/null"}},
		} {
			s.read.Store(0)
			got, result := fetch(t, v2, form, opts)
			if sum(t, got) != want2 {
				t.Errorf("%s %s: version 2 has come back as another file", form, what)
			}
			if read := s.read.Load(); what == "alone" && read != result.Size || what != "alone" && read > first/4 {
				t.Errorf("%s %s: %d of %d bytes were fetched", form, what, read, result.Size)
			}
		}
		// Once more, when all is in the cache.
		s.read.Store(0)
		if got, _ := fetch(t, v1, form, convert.Options{Cache: warm}); sum(t, got) != want1 || s.read.Load() != 0 {
			t.Errorf("%s: %d bytes were fetched in spite of the cache", form, s.read.Load())
		}
		if plan, err := convert.Plan(t.Context(), convert.FromImage(v1), "x", &convert.Options{Form: form, Cache: warm}); err != nil || plan.Download != 0 || !plan.Exact {
			t.Errorf("%s: plan %+v, %v", form, plan, err)
		}
	}
}

// TestSegmentsOfAnyForm: what is in pieces can be converted like anything else.
func TestSegmentsOfAnyForm(t *testing.T) {
	img := versions(t, 1)[0]
	want := listing(t, convert.FromImage(img), nil)
	s := &shelf{blobs: map[digest.Digest][]byte{}}
	plain, _, _ := s.pushed(t, img, convert.FormSquashfs, "")
	same(t, "squashfs in segments", want, listing(t, convert.FromImage(plain), &convert.Options{Level: 1}))
	inSIF, local, _ := s.pushed(t, img, convert.FormSIF, "")
	f, err := sif.Open(local)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	source, err := convert.FromSIF(f)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "SIF in segments", listing(t, source, nil), listing(t, convert.FromImage(inSIF), nil))
	// From squashfs to SIF the configuration goes along.
	dst, _ := fetch(t, plain, convert.FormSIF, convert.Options{})
	made, err := sif.Open(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	if p, err := made.Primary(); err != nil || p.Partition.Arch != "amd64" {
		t.Errorf("partition %+v, %v", p, err)
	}
	for _, layers := range []convert.LayerForm{convert.LayersSquashfs, convert.LayersSegments, convert.LayersTar} {
		b, err := convert.ToImage(t.Context(), convert.FromImage(plain), &convert.Options{TempDir: t.TempDir(), OCI: convert.OCIOptions{Layers: layers}})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "again as "+string(layers), want, listing(t, convert.FromImage(b.Image), &convert.Options{Level: 1}))
		b.Close()
	}
}

// TestSquashfsLayer: an image whose one layer is a squashfs is fetched as it is.
func TestSquashfsLayer(t *testing.T) {
	img := versions(t, 1)[0]
	local, _ := fetch(t, img, convert.FormSquashfs, convert.Options{})
	b, err := convert.ToImage(t.Context(), convert.FromImage(img), &convert.Options{TempDir: t.TempDir(), OCI: convert.OCIOptions{Layers: convert.LayersSquashfs}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if got, _ := fetch(t, b.Image, convert.FormSquashfs, convert.Options{}); sum(t, got) != sum(t, local) {
		t.Error("another file")
	}
}

// TestArtifact: a SIF file goes to a registry as Apptainer has it, and comes back as it was.
func TestArtifact(t *testing.T) {
	img := versions(t, 1)[0]
	local, _ := fetch(t, img, convert.FormSIF, convert.Options{})
	a, err := convert.SIFArtifact(t.Context(), local, "image.sif")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	s := &shelf{blobs: map[digest.Digest][]byte{}}
	s.put(t, a)
	there, err := image.NewArtifact(t.Context(), a.Descriptor(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	source, err := convert.FromArtifact(there)
	if err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "back.sif")
	if _, err := convert.Convert(t.Context(), source, dst, nil); err != nil {
		t.Fatal(err)
	}
	if sum(t, dst) != sum(t, local) {
		t.Error("another file")
	}
	f, err := sif.Open(local)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	direct, err := convert.FromSIF(f)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "as a squashfs", listing(t, direct, nil), listing(t, source, nil))
	if _, err := image.New(t.Context(), a.Descriptor(), s, nil); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "oras://") {
		t.Errorf("as an image: %v", err)
	}
	b, err := image.NewArtifact(t.Context(), img.Descriptor(), imageSource{img}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := convert.FromArtifact(b); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "docker://") {
		t.Errorf("an image as a SIF file: %v", err)
	}
}

// TestForeignSIFInSegments: a file without an index of its layers has one segment.
func TestForeignSIFInSegments(t *testing.T) {
	local := filepath.Join(t.TempDir(), "local.sif")
	opts := &convert.Options{SIF: convert.SIFOptions{NoReuse: true}}
	if _, err := convert.Convert(t.Context(), convert.FromImage(versions(t, 1)[0]), local, opts); err != nil {
		t.Fatal(err)
	}
	b, err := convert.CutSIF(t.Context(), local)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if n := len(b.Layers()); n != 2 && n != 3 { // nothing may be left behind the partition
		t.Errorf("%d pieces", n)
	}
	if got, _ := fetch(t, b.Image, convert.FormSIF, convert.Options{}); sum(t, got) != sum(t, local) {
		t.Error("another file")
	}
	if _, err := convert.CutSIF(t.Context(), "/dev/null"); err == nil {
		t.Error("a device is a SIF file")
	}
}

// TestSegmentsDistrustEarlierFiles: what begins like a segment but goes on differently is fetched, and so is what the cache has
// under a wrong name.
func TestSegmentsDistrustEarlierFiles(t *testing.T) {
	s := &shelf{blobs: map[digest.Digest][]byte{}}
	img, local, _ := s.pushed(t, versions(t, 1)[0], convert.FormSquashfs, "")
	data, err := os.ReadFile(local)
	if err != nil {
		t.Fatal(err)
	}
	for off := 8000; off < len(data); off += 4096 {
		data[off] ^= 1
	}
	damaged := filepath.Join(t.TempDir(), "damaged")
	if err := os.WriteFile(damaged, data, 0o644); err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, data[:9000], 0o644); err != nil {
		t.Fatal(err)
	}
	got, result := fetch(t, img, convert.FormSquashfs, convert.Options{Reuse: []string{damaged, short, t.TempDir(), "/nowhere"}})
	if sum(t, got) != sum(t, local) {
		t.Error("another file")
	}
	for _, l := range result.Layers[1:] {
		if l.SegmentFrom != convert.OriginSource && l.Size > 4096 {
			t.Errorf("segment of %d bytes from %s", l.Size, l.SegmentFrom)
		}
	}
}

// TestHostileSegments: each manifest is refused, with an error that names the field, and leaves nothing.
func TestHostileSegments(t *testing.T) {
	type manifest = image.Manifest
	s := &shelf{blobs: map[digest.Digest][]byte{}}
	pushed, _, _ := s.pushed(t, versions(t, 1)[0], convert.FormSquashfs, "")
	const annotations = "annotations."
	for name, c := range map[string]struct {
		change func(m *manifest, config *image.Config)
		field  string
		want   error
	}{
		"no pieces": {func(m *manifest, c *image.Config) { m.Layers, c.RootFS.DiffIDs = nil, nil }, "layers", image.ErrFormat},
		"no offset": {
			func(m *manifest, _ *image.Config) { delete(m.Layers[1].Annotations, convert.AnnotationSegmentOffset) },
			"layers[1]." + annotations + convert.AnnotationSegmentOffset, image.ErrFormat,
		},
		"negative offset": {
			func(m *manifest, _ *image.Config) { m.Layers[0].Annotations[convert.AnnotationSegmentOffset] = "-0" },
			"layers[0]." + annotations + convert.AnnotationSegmentOffset, image.ErrFormat,
		},
		"offset beyond 64 bits": {func(m *manifest, _ *image.Config) {
			m.Layers[2].Annotations[convert.AnnotationSegmentOffset] = "99999999999999999999"
		}, "layers[2]." + annotations + convert.AnnotationSegmentOffset, image.ErrFormat},
		"pieces that overlap": {
			func(m *manifest, _ *image.Config) { m.Layers[2].Annotations[convert.AnnotationSegmentOffset] = "4096" },
			"layers[2]." + annotations + convert.AnnotationSegmentOffset, image.ErrFormat,
		},
		"no size":          {func(m *manifest, _ *image.Config) { delete(m.Annotations, convert.AnnotationFileSize) }, annotations + convert.AnnotationFileSize, image.ErrFormat},
		"file too large":   {func(m *manifest, _ *image.Config) { m.Annotations[convert.AnnotationFileSize] = "9223372036854775807" }, annotations + convert.AnnotationFileSize, image.ErrFormat},
		"file too small":   {func(m *manifest, _ *image.Config) { m.Annotations[convert.AnnotationFileSize] = "8192" }, "layers[1].size", image.ErrFormat},
		"no digest":        {func(m *manifest, _ *image.Config) { delete(m.Annotations, convert.AnnotationFileDigest) }, annotations + convert.AnnotationFileDigest, image.ErrFormat},
		"digest of a path": {func(m *manifest, _ *image.Config) { m.Annotations[convert.AnnotationFileDigest] = "sha256:../../x" }, annotations + convert.AnnotationFileDigest, image.ErrFormat},
		"wrong first block": {
			func(m *manifest, _ *image.Config) {
				m.Layers[0].Annotations[convert.AnnotationSegmentFirst] = "sha512:00"
			},
			"layers[0]." + annotations + convert.AnnotationSegmentFirst, image.ErrFormat,
		},
		"a tar among them":    {func(m *manifest, _ *image.Config) { m.Layers[1].MediaType = ocispec.MediaTypeImageLayerGzip }, "layers[1].mediaType", image.ErrFormat},
		"empty piece":         {func(m *manifest, _ *image.Config) { m.Layers[1].Size = 0 }, "layers[1].size", image.ErrFormat},
		"piece that is huge":  {func(m *manifest, _ *image.Config) { m.Layers[1].Size = 1 << 62 }, "layers[1].size", image.ErrFormat},
		"piece out of step":   {func(m *manifest, _ *image.Config) { m.Layers[0].Size-- }, "layers[0].size", image.ErrFormat},
		"segments of nothing": {func(m *manifest, _ *image.Config) { m.ArtifactType = "" }, "artifactType", image.ErrFormat},
		"diffID of another":   {func(_ *manifest, c *image.Config) { c.RootFS.DiffIDs[1] = c.RootFS.DiffIDs[0] }, "rootfs.diff_ids[1]", image.ErrFormat},
		"digest of another file": {
			func(m *manifest, _ *image.Config) {
				m.Annotations[convert.AnnotationFileDigest] = digest.FromString("x").String()
			},
			"", image.ErrDigest,
		},
		"another blob": {func(m *manifest, c *image.Config) {
			m.Layers[1].Digest = digest.FromString("y")
			c.RootFS.DiffIDs[1] = m.Layers[1].Digest
		}, "", fs.ErrNotExist},
	} {
		img := s.image(t, pushed.Descriptor()) // which is changed
		m, config := img.Manifest(), img.Config()
		c.change(&m, &config)
		m.Config = s.add(t, ocispec.MediaTypeImageConfig, config)
		bad := s.image(t, s.add(t, ocispec.MediaTypeImageManifest, m))
		dir := t.TempDir()
		_, err := convert.Convert(t.Context(), convert.FromImage(bad), filepath.Join(dir, "x.sqfs"), &convert.Options{TempDir: dir})
		e, typed := errors.AsType[*image.DocumentError](err)
		if !errors.Is(err, c.want) || c.field != "" && (!typed || e.Field != c.field) {
			t.Errorf("%s: got %v", name, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
	}
}

// TestPiecesOfNothing: blobs with the right digests that are no image at all.
func TestPiecesOfNothing(t *testing.T) {
	s := &shelf{blobs: map[digest.Digest][]byte{}}
	l := s.add(t, convert.MediaTypeSIFLayer, strings.Repeat("x", 10_000))
	root := s.add(t, ocispec.MediaTypeImageManifest, map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": s.add(t, convert.MediaTypeSIFConfig, struct{}{}), "layers": []any{l},
	})
	a, err := image.NewArtifact(t.Context(), root, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	source, err := convert.FromArtifact(a)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, form := range []convert.Form{convert.FormSIF, convert.FormSquashfs} {
		if _, err := convert.Convert(t.Context(), source, filepath.Join(dir, "x"), &convert.Options{Form: form}); !errors.Is(err, sif.ErrFormat) {
			t.Errorf("%s: %v", form, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
