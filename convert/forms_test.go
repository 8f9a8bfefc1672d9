package convert_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/sif"
	"hpcimg/squashfs"
)

// listing returns what the image says of every entry, through the form that all others are compared with.
func listing(t *testing.T, src *convert.Source, opts *convert.Options) testtree.Listing {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "listing.sqfs")
	var o convert.Options
	if opts != nil {
		o = *opts
	}
	o.Form = convert.FormSquashfs
	if _, err := convert.Convert(t.Context(), src, dst, &o); err != nil {
		t.Fatal(err)
	}
	r, err := squashfs.Open(dst, nil)
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

func same(t *testing.T, what string, want, got testtree.Listing) {
	t.Helper()
	if d := testtree.Diff(want, got, nil); d != "" {
		t.Errorf("%s: (-want +got)\n%s", what, d)
	}
}

func openImage(t *testing.T, ref string) *image.Image {
	t.Helper()
	img, err := image.Open(t.Context(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestFormTar(t *testing.T) {
	img := sample(t)
	want := listing(t, convert.FromImage(img), nil)
	var first []byte
	for _, workers := range []int{1, 4} {
		dst := filepath.Join(t.TempDir(), "image.tar")
		r, err := convert.Convert(t.Context(), convert.FromImage(img), dst, &convert.Options{Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(dst)
		if err != nil {
			t.Fatal(err)
		}
		if r.Form != convert.FormTar || r.Size != int64(len(data)) || len(r.Layers) != 3 {
			t.Errorf("result %+v", r)
		}
		if first == nil {
			first = data
		}
		if !bytes.Equal(first, data) {
			t.Errorf("%d workers: another stream", workers)
		}
	}
	same(t, "tar", want, listing(t, convert.FromTar(bytes.NewReader(first)), nil))
}

func TestFormDir(t *testing.T) {
	oracle.Root(t)
	img := sample(t)
	want := listing(t, convert.FromImage(img), nil)
	parent := t.TempDir()
	dst := filepath.Join(parent, "sandbox")
	opts := &convert.Options{Form: convert.FormDir}
	if _, err := convert.Convert(t.Context(), convert.FromImage(img), dst, opts); err != nil {
		t.Fatal(err)
	}
	got, err := testtree.Walk(dst)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "directory", want, got)
	if _, err := convert.Convert(t.Context(), convert.FromImage(img), dst, opts); err == nil {
		t.Error("an existing directory is replaced without Force")
	}
	if err := os.WriteFile(filepath.Join(dst, "old"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	opts.Force = true
	if _, err := convert.Convert(t.Context(), convert.FromImage(img), dst, opts); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dst, "old")); err == nil {
		t.Error("what was in the old directory is in the new one")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := convert.Convert(ctx, convert.FromImage(img), filepath.Join(parent, "other"), opts); err == nil {
		t.Error("cancelled, but no error")
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestFormsOfOCI writes images and reads them back.
func TestFormsOfOCI(t *testing.T) {
	img := sample(t)
	want := listing(t, convert.FromImage(img), nil)
	for name, c := range map[string]struct {
		form convert.Form
		ref  string
		opts convert.Options
	}{
		"layout, gzip":      {convert.FormOCI, "oci:", convert.Options{}},
		"layout, zstd":      {convert.FormOCI, "oci:", convert.Options{Compression: squashfs.CompressionZstd}},
		"layout, plain":     {convert.FormOCI, "oci:", convert.Options{Compression: squashfs.CompressionNone}},
		"archive, gzip":     {convert.FormOCIArchive, "oci-archive:", convert.Options{}},
		"archive, estargz":  {convert.FormOCIArchive, "oci-archive:", convert.Options{OCI: convert.OCIOptions{Layers: convert.LayersEstargz}}},
		"docker archive":    {convert.FormDockerArchive, "docker-archive:", convert.Options{}},
		"layout with a tag": {convert.FormOCI, "oci:", convert.Options{OCI: convert.OCIOptions{Tag: "v1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			var digests []digest.Digest
			for _, workers := range []int{1, 3} {
				dst := filepath.Join(t.TempDir(), "out")
				o := c.opts
				o.Form, o.Workers = c.form, workers
				r, err := convert.Convert(t.Context(), convert.FromImage(img), dst, &o)
				if err != nil {
					t.Fatal(err)
				}
				digests = append(digests, r.Digest)
				ref := c.ref + dst
				if o.OCI.Tag != "" {
					ref += ":" + o.OCI.Tag
				}
				again := openImage(t, ref)
				if len(again.Layers()) != 1 || again.Platform().Architecture != img.Platform().Architecture {
					t.Errorf("%d layers for %v", len(again.Layers()), again.Platform())
				}
				got := listing(t, convert.FromImage(again), nil)
				for _, landmark := range []string{".no.prefetch.landmark", "stargz.index.json"} {
					delete(got, landmark)
				}
				same(t, name, want, got)
			}
			if digests[0] != digests[1] || digests[0] == "" {
				t.Errorf("digests %v", digests)
			}
		})
	}
}

// TestSkopeo has another program copy what we write.
func TestSkopeo(t *testing.T) {
	oracle.Tool(t, "skopeo")
	img := sample(t)
	dir := t.TempDir()
	for _, form := range []convert.Form{convert.FormOCI, convert.FormOCIArchive, convert.FormDockerArchive} {
		dst := filepath.Join(dir, string(form))
		o := &convert.Options{Form: form, OCI: convert.OCIOptions{Tag: "example.org/demo:1"}}
		if _, err := convert.Convert(t.Context(), convert.FromImage(img), dst, o); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(dir, string(form)+".copy")
		oracle.Run(t, "skopeo", "--insecure-policy", "copy", "-q", string(form)+":"+dst+":example.org/demo:1", "dir:"+out)
	}
}

func TestLayersOfEstargz(t *testing.T) {
	b, err := convert.ToImage(t.Context(), convert.FromImage(sample(t)), &convert.Options{
		TempDir: t.TempDir(), OCI: convert.OCIOptions{Layers: convert.LayersEstargz, Prioritized: []string{"bin/sh"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	l := b.Layers()[0]
	rc, err := l.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	blob, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	r, err := estargz.Open(io.NewSectionReader(bytes.NewReader(blob), 0, int64(len(blob))))
	if err != nil {
		t.Fatal(err)
	}
	toc := digest.Digest(l.Descriptor.Annotations[estargz.TOCJSONDigestAnnotation])
	if _, err := r.VerifyTOC(toc); err != nil {
		t.Error(err)
	}
	if _, ok := r.Lookup(estargz.PrefetchLandmark); !ok {
		t.Error("nothing is to be fetched ahead")
	}
}

// TestLayersOfEstargzFallback has a name that eStargz cannot have.
func TestLayersOfEstargzFallback(t *testing.T) {
	tree := testtree.Tree{testtree.File("plain", 0o644, strings.Repeat("x", 3<<20)), testtree.File("caf\xe9", 0o644, "latin")}
	var digests []digest.Digest
	for _, form := range []convert.LayerForm{convert.LayersEstargz, convert.LayersTar} {
		b, err := convert.ToImage(t.Context(), convert.FromTar(bytes.NewReader(tree.Tar(nil))), &convert.Options{
			TempDir: t.TempDir(), OCI: convert.OCIOptions{Layers: form},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		l := b.Layers()[0].Descriptor
		digests = append(digests, l.Digest)
		if l.MediaType != "application/vnd.oci.image.layer.v1.tar+gzip" || len(l.Annotations) > 0 {
			t.Errorf("%s: %+v", form, l)
		}
		w := b.Result.Warnings
		if form == convert.LayersTar && len(w) > 0 {
			t.Errorf("warnings %v", w)
		}
		if form == convert.LayersEstargz && (len(w) != 1 || w[0].Code != convert.WarnEstargz || !strings.Contains(w[0].Detail, "not UTF-8")) {
			t.Errorf("warnings %v", w)
		}
	}
	if digests[0] != digests[1] {
		t.Errorf("not the layer of a tar stream: %v", digests)
	}
}

// TestFormProgress wants the bytes of whatever is written to be known beforehand, and all of them to be reached.
func TestFormProgress(t *testing.T) {
	img := sample(t)
	for _, o := range []convert.Options{
		{Form: convert.FormSIF},
		{Form: convert.FormOCISIF},
		{Form: convert.FormTar},
		{Form: convert.FormDir},
		{Form: convert.FormOCI},
		{Form: convert.FormOCIArchive, OCI: convert.OCIOptions{Layers: convert.LayersEstargz}},
		{Form: convert.FormDockerArchive},
		{Form: convert.FormOCIArchive, OCI: convert.OCIOptions{Layers: convert.LayersSegments}},
	} {
		last := map[string]convert.Event{}
		o.Progress = func(e convert.Event) {
			if e.Stage == convert.StageWrite {
				last[e.Name] = e
			}
		}
		if _, err := convert.Convert(t.Context(), convert.FromImage(img), filepath.Join(t.TempDir(), "out"), &o); err != nil {
			t.Fatal(err)
		}
		oci := o.Form == convert.FormOCI || o.Form == convert.FormOCIArchive || o.Form == convert.FormDockerArchive
		if len(last) == 0 || oci != (last["copy"].Total > 0) {
			t.Errorf("%s: %+v", o.Form, last)
		}
		for _, e := range last {
			if e.Total == 0 || e.Done != e.Total {
				t.Errorf("%s: %+v at the end", o.Form, e)
			}
		}
	}
}

// TestLayersOfSquashfs puts an image in pieces together again.
func TestLayersOfSquashfs(t *testing.T) {
	img := sample(t)
	plain := filepath.Join(t.TempDir(), "image.sqfs")
	if _, err := convert.Convert(t.Context(), convert.FromImage(img), plain, nil); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []convert.LayerForm{convert.LayersSquashfs, convert.LayersSegments} {
		b, err := convert.ToImage(t.Context(), convert.FromImage(img), &convert.Options{TempDir: t.TempDir(), OCI: convert.OCIOptions{Layers: form}})
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		for _, l := range b.Layers() {
			rc, err := l.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(&got, rc); err != nil {
				t.Fatal(err)
			}
			rc.Close()
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: the layers are not the image", form)
		}
		if n := len(b.Layers()); form == convert.LayersSquashfs && n != 1 || form == convert.LayersSegments && n < 4 {
			t.Errorf("%s: %d layers", form, n)
		}
		if form == convert.LayersSegments {
			if d := b.Manifest().Annotations[convert.AnnotationFileDigest]; d != digest.FromBytes(want).String() {
				t.Errorf("digest %s", d)
			}
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestBack converts results again.
func TestBack(t *testing.T) {
	img := sample(t)
	dir := t.TempDir()
	sifPath, sqfs := filepath.Join(dir, "image.sif"), filepath.Join(dir, "image.sqfs")
	for _, dst := range []string{sifPath, sqfs} {
		if _, err := convert.Convert(t.Context(), convert.FromImage(img), dst, nil); err != nil {
			t.Fatal(err)
		}
	}
	r, err := squashfs.Open(sqfs, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var last convert.Event
	progress := &convert.Options{Progress: func(e convert.Event) {
		if e.Stage == convert.StageLayer {
			if e.Done > e.Total {
				t.Errorf("%+v", e)
			}
			last = e
		}
	}}
	same(t, "squashfs", listing(t, convert.FromImage(img), nil), listing(t, convert.FromSquashfs(r), progress))
	if last.Total != r.BytesUsed() || last.Done != last.Total {
		t.Errorf("at the end %+v of %d", last, r.BytesUsed())
	}

	f, err := sif.Open(sifPath)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	src, err := convert.FromSIF(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := convert.ToImage(t.Context(), src, &convert.Options{TempDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, _ := json.Marshal(b.Config().Config)
	want, _ := json.Marshal(img.Config().Config)
	if !bytes.Equal(got, want) || b.Platform().Architecture != img.Platform().Architecture {
		t.Errorf("config %s, want %s", got, want)
	}
	_, fromSIF, _ := toSIF(t, convert.FromImage(img), nil)
	if src, err = convert.FromSIF(f); err != nil {
		t.Fatal(err)
	}
	same(t, "SIF", fromSIF, listing(t, src, nil))
}

// TestFormErrors asks for what cannot be.
func TestFormErrors(t *testing.T) {
	img := sample(t)
	dir := t.TempDir()
	for name, o := range map[string]convert.Options{
		"unknown form":           {Form: "iso"},
		"unknown layers":         {Form: convert.FormOCI, OCI: convert.OCIOptions{Layers: "iso"}},
		"lz4 layers":             {Form: convert.FormOCI, Compression: squashfs.CompressionLZ4},
		"docker archive, name":   {Form: convert.FormDockerArchive, OCI: convert.OCIOptions{Tag: "Not/A Name"}},
		"docker archive, digest": {Form: convert.FormDockerArchive, OCI: convert.OCIOptions{Tag: "demo@sha256:" + strings.Repeat("0", 64)}},
		"docker archive of more": {Form: convert.FormDockerArchive, OCI: convert.OCIOptions{Layers: convert.LayersEstargz}},
	} {
		if _, err := convert.Convert(t.Context(), convert.FromImage(img), filepath.Join(dir, "x"), &o); err == nil || !strings.Contains(err.Error(), "form") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
