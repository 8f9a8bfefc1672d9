package convert_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// sample is an image that has a bit of everything.
func sample(t testing.TB) *image.Image {
	t.Helper()
	img, err := sampled()
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// sampled makes the image once: with the race detector that takes seconds.
var sampled = sync.OnceValues(func() (*image.Image, error) {
	base := tree{
		dir("bin", 0o755), testtree.File("bin/sh", 0o755, "\x7fELF\x02\x01\x01"+strings.Repeat("\x00", 9)+"\x02\x00\x3e\x00 and so on"),
		dir("etc", 0o755), file("etc/hosts", "127.0.0.1 build-host\n"), file("etc/motd", "hello\n"), symlink("etc/resolv.conf", "/run/resolv.conf"),
		dir("usr/lib", 0o755), symlink("lib", "usr/lib"),
	}
	for i := range 40 {
		base = append(base, testtree.File(fmt.Sprintf("usr/lib/lib%d.so", i), 0o644, testtree.Bytes(uint64(i), 150*i*i)))
	}
	return image.Build(image.Config{}, layerInputs(
		base,
		tree{file("lib/lib39.so", "replaced by way of a link"), hide("etc/motd"), file("opt/app", strings.Repeat("app", 100_000))},
		tree{link("opt/app2", "opt/app"), hide("opt/app"), testtree.File("usr/lib/lib38.so", 0o644, testtree.Bytes(1, 400_000))},
	)...)
})

func sum(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// TestSameBytes wants the same file whatever the number of workers and wherever it is written.
func TestSameBytes(t *testing.T) {
	img := sample(t)
	for _, form := range []convert.Form{convert.FormSIF, convert.FormSquashfs} {
		for _, comp := range []squashfs.Compression{squashfs.CompressionGzip, squashfs.CompressionZstd, squashfs.CompressionNone} {
			t.Run(fmt.Sprintf("%s/%s", form, comp), func(t *testing.T) {
				want := ""
				for _, workers := range []int{1, 2, 8, 0, 3} {
					dst := filepath.Join(t.TempDir(), "image")
					o := &convert.Options{Form: form, Compression: comp, Workers: workers}
					if _, err := convert.Convert(t.Context(), convert.FromImage(img), dst, o); err != nil {
						t.Fatal(err)
					}
					got := sum(t, dst)
					if want == "" {
						want = got
					}
					if got != want {
						t.Errorf("%d workers: %s, want %s", workers, got, want)
					}
				}
			})
		}
	}
}

// TestSegmentsAreFunctionsOfWhatIsVisible compares two images that show the same files of the same layer, where one has to find out
// late that it hides some.
func TestSegmentsAreFunctionsOfWhatIsVisible(t *testing.T) {
	base := tree{symlink("lib", "usr/lib")}
	for i := range 30 {
		base = append(base, testtree.File(fmt.Sprintf("usr/lib/%d", i), 0o644, testtree.Text(uint64(i), 3000*i)))
	}
	long := string(testtree.Text(99, 100))
	direct := build(t, base, tree{file("usr/lib/7", long), file("usr/lib/20", long)})
	byLink := build(t, base, tree{file("lib/7", long), file("lib/20", long)})
	var files []string
	for _, img := range []*image.Image{direct, byLink} {
		dst := filepath.Join(t.TempDir(), "image.sqfs")
		// With one worker nothing is packed on speculation.
		result, err := convert.Convert(t.Context(), convert.FromImage(img), dst, &convert.Options{Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		if want := img == byLink; result.Layers[0].Repacked != want {
			t.Errorf("Repacked = %t, want %t", result.Layers[0].Repacked, want)
		}
		files = append(files, sum(t, dst))
	}
	if files[0] != files[1] {
		t.Errorf("the images differ")
	}
}

// TestHiddenContentsAreNotThere looks for what has been deleted.
func TestHiddenContentsAreNotThere(t *testing.T) {
	const secret = "correct horse battery staple"
	small, large := secret+" small", string(testtree.Bytes(5, 300_000))+secret+" large"
	tests := map[string][]tree{
		"whiteout":          {{file("a", small), file("b", large), file("c", "c")}, {hide("a"), hide("b")}},
		"opaque":            {{file("d/a", small), file("d/b", large), file("c", "c")}, {opaque("d")}},
		"by way of a link":  {{symlink("l", "d"), file("d/a", small), file("d/b", large), file("c", "c")}, {file("l/a", "A"), hide("l/b")}},
		"in the same layer": {{file("a", small), file("b", large), file("a", "1"), file("b", "2"), file("c", "c")}},
		"upper layer":       {{file("z", "z")}, {file("a", small), file("b", large), file("b", "2"), file("c", "c")}, {hide("a")}},
	}
	for name, layers := range tests {
		t.Run(name, func(t *testing.T) {
			dst := filepath.Join(t.TempDir(), "image.sqfs")
			_, err := convert.Convert(t.Context(), convert.FromImage(build(t, layers...)), dst, &convert.Options{Compression: squashfs.CompressionNone})
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(dst)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("deleted contents are in the image")
			}
		})
	}
}

func TestForms(t *testing.T) {
	tests := []struct {
		name string
		form convert.Form
		want convert.Form
		mode fs.FileMode
		err  error
	}{
		{"a.sif", "", convert.FormSIF, 0o755, nil},
		{"a.SIF", "", convert.FormSIF, 0o755, nil},
		{"a.sqfs", "", convert.FormSquashfs, 0o644, nil},
		{"a.squashfs", "", convert.FormSquashfs, 0o644, nil},
		{"a.sqsh", "", convert.FormSquashfs, 0o644, nil},
		{"a.img", convert.FormSIF, convert.FormSIF, 0o755, nil},
		{"a.sif", convert.FormSquashfs, convert.FormSquashfs, 0o644, nil},
		{"a.img", "", "", 0, convert.ErrForm},
		{"sif", "", "", 0, convert.ErrForm},
		{"a.sif", "tarball", "", 0, convert.ErrForm},
	}
	img := build(t, tree{file("f", "f")})
	for _, test := range tests {
		dst := filepath.Join(t.TempDir(), test.name)
		result, err := convert.Convert(t.Context(), convert.FromImage(img), dst, &convert.Options{Form: test.form})
		if !errors.Is(err, test.err) {
			t.Errorf("%s %q: error %v, want %v", test.name, test.form, err, test.err)
		}
		if err != nil {
			continue
		}
		info, err := os.Stat(dst)
		if err != nil {
			t.Fatal(err)
		}
		if result.Form != test.want || info.Mode() != test.mode || info.Size() != result.Size {
			t.Errorf("%s: %s of mode %v and %d bytes, want %s, %v, %d", test.name, result.Form, info.Mode(), info.Size(), test.want, test.mode, result.Size)
		}
	}
}

func TestExistingDestination(t *testing.T) {
	img := build(t, tree{file("f", "f")})
	dst := filepath.Join(t.TempDir(), "image.sqfs")
	if err := os.WriteFile(dst, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := convert.Convert(t.Context(), convert.FromImage(img), dst, nil)
	e, ok := errors.AsType[*convert.Error](err)
	if !errors.Is(err, fs.ErrExist) || !ok || e.Side != convert.SideDestination {
		t.Errorf("error %v, want fs.ErrExist", err)
	}
	if data, _ := os.ReadFile(dst); string(data) != "old" {
		t.Errorf("destination has %q", data)
	}
	if _, err := convert.Convert(t.Context(), convert.FromImage(img), dst, &convert.Options{Force: true}); err != nil {
		t.Error(err)
	}
	if data, _ := os.ReadFile(dst); !bytes.HasPrefix(data, []byte("hsqs")) {
		t.Errorf("destination has not been replaced")
	}
}

func TestBadOptions(t *testing.T) {
	for _, o := range []*convert.Options{
		{Workers: -1}, {BlockSize: 100}, {Compression: 99}, {Level: 77}, {Limits: convert.Limits{Entries: -1}}, {Limits: convert.Limits{Text: -1}}, {Form: "x"},
	} {
		dir := t.TempDir()
		_, err := convert.Convert(t.Context(), convert.FromImage(sample(t)), filepath.Join(dir, "a.sif"), o)
		if e, ok := errors.AsType[*convert.Error](err); !ok || e.Stage != convert.StageOpen {
			t.Errorf("%+v: error %v", o, err)
		}
		if left := readDir(t, dir); len(left) > 0 {
			t.Errorf("%+v: left %v", o, left)
		}
	}
}

// changedSource gives other bytes than the descriptors promise.
type changedSource struct {
	image.Source
	change func(image.Descriptor, []byte) []byte
}

func (s changedSource) Open(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	r, err := s.Source.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(s.change(d, data))), nil
}

type imageSource struct{ *image.Image }

func (s imageSource) Open(_ context.Context, d image.Descriptor) (io.ReadCloser, error) {
	switch d.Digest {
	case s.Descriptor().Digest:
		return io.NopCloser(bytes.NewReader(s.RawManifest())), nil
	case s.Manifest().Config.Digest:
		return io.NopCloser(bytes.NewReader(s.RawConfig())), nil
	}
	return s.OpenBlob(context.Background(), d)
}

// TestDigests changes what an image consists of, byte by byte and otherwise: every change has to be found.
func TestDigests(t *testing.T) {
	img := build(t, tree{testtree.File("f", 0o644, testtree.Bytes(1, 5000))}, tree{file("g", "g")})
	bottom := img.Layers()[0].Descriptor
	changes := map[string]func([]byte) []byte{
		"truncated":     func(b []byte) []byte { return b[:len(b)-1] },
		"empty":         func([]byte) []byte { return nil },
		"longer":        func(b []byte) []byte { return append(bytes.Clone(b), 0) },
		"other content": func(b []byte) []byte { return testtree.Gzip(tree{file("f", "other")}.Tar(nil)) },
	}
	for at := 0; at < int(bottom.Size); at += 97 {
		changes[fmt.Sprintf("byte %d", at)] = func(b []byte) []byte { return flip(b, at) }
	}
	changes["last byte"] = func(b []byte) []byte { return flip(b, -1) }
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			src := changedSource{imageSource{img}, func(d image.Descriptor, data []byte) []byte {
				if d.Digest == bottom.Digest {
					return change(data)
				}
				return data
			}}
			bad, err := image.New(t.Context(), img.Descriptor(), src, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = squash(t, bad, nil)
			e, ok := errors.AsType[*convert.Error](err)
			if !errors.Is(err, image.ErrDigest) || !ok || e.Side != convert.SideSource || e.Layer != bottom.Digest.String() {
				t.Errorf("error %v (%+v), want image.ErrDigest", err, e)
			}
		})
	}
}

// withDiffIDs returns an image that claims other diffIDs.
func withDiffIDs(t testing.TB, img *image.Image, change func(i int, l *image.Layer, m *image.Descriptor)) *image.Image {
	t.Helper()
	config, manifest := img.Config(), img.Manifest()
	config.RootFS.DiffIDs = slices.Clone(config.RootFS.DiffIDs)
	manifest.Layers = slices.Clone(manifest.Layers)
	for i, l := range img.Layers() {
		change(i, &l, &manifest.Layers[i])
		config.RootFS.DiffIDs[i] = l.DiffID
	}
	blobs := map[digest.Digest][]byte{}
	put := func(v any) (digest.Digest, int64) {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		d := digest.FromBytes(data)
		blobs[d] = data
		return d, int64(len(data))
	}
	manifest.Config.Digest, manifest.Config.Size = put(config)
	root := image.Descriptor{MediaType: ocispec.MediaTypeImageManifest}
	root.Digest, root.Size = put(manifest)
	changed, err := image.New(t.Context(), root, mapSource{blobs, img}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

type mapSource struct {
	blobs map[digest.Digest][]byte
	rest  *image.Image
}

func (s mapSource) Open(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	if data, ok := s.blobs[d.Digest]; ok {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	return s.rest.OpenBlob(ctx, d)
}

func TestDiffIDs(t *testing.T) {
	img := build(t, tree{file("f", "f")}, tree{file("g", "g")})
	for wrong := range 2 {
		bad := withDiffIDs(t, img, func(i int, l *image.Layer, _ *image.Descriptor) {
			if i == wrong {
				l.DiffID = digest.FromString("something else")
			}
		})
		_, _, err := squash(t, bad, nil)
		d, ok := errors.AsType[*image.DigestError](err)
		if !errors.Is(err, image.ErrDigest) || !ok || d.Descriptor.Digest != digest.FromString("something else") || d.Got != img.Layers()[wrong].DiffID {
			t.Errorf("layer %d: error %v (%+v)", wrong, err, d)
		}
	}
}

// TestMediaTypes has layers whose media type is wrong: what they are decides.
func TestMediaTypes(t *testing.T) {
	img := build(t, tree{file("f", "f")})
	for mediaType, want := range map[string]int{
		ocispec.MediaTypeImageLayerGzip: 0, "application/vnd.docker.image.rootfs.diff.tar.gzip": 0,
		ocispec.MediaTypeImageLayer: 1, ocispec.MediaTypeImageLayerZstd: 1,
	} {
		changed := withDiffIDs(t, img, func(_ int, _ *image.Layer, m *image.Descriptor) { m.MediaType = mediaType })
		list, result, err := squash(t, changed, nil)
		if err != nil {
			t.Errorf("%s: %v", mediaType, err)
			continue
		}
		if _, ok := list["f"]; !ok || len(result.Warnings) != want {
			t.Errorf("%s: %v, warnings %v, want %d", mediaType, list.Paths(), result.Warnings, want)
		}
	}
}

func TestLayerCompressions(t *testing.T) {
	layer := tree{file("f", strings.Repeat("f", 100_000))}.Tar(nil)
	for _, c := range []image.Compression{image.CompressionNone, image.CompressionGzip, image.CompressionZstd} {
		img, err := image.Build(image.Config{}, image.LayerInput{Tar: layer, Compression: c})
		if err != nil {
			t.Fatal(err)
		}
		list, result, err := squash(t, img, nil)
		if err != nil {
			t.Fatal(err)
		}
		if list["f"].Size != 100_000 || len(result.Warnings) > 0 || result.Layers[0].Tar != int64(len(layer)) {
			t.Errorf("%v: %v, %v", c, list, result)
		}
	}
}

func TestWarnings(t *testing.T) {
	x := testtree.Xattr
	list, result, err := squash(t, build(t, tree{
		file("a", "a", x("security.selinux", "x"), x("user.keep", "1"), x("trusted.keep", "2"), x("security.ima", "3")),
		file("b", "b", x("security.selinux", "x"), x("user.overlay.opaque", "y"), x("system.posix_acl_access", "z")),
		symlink("l", "a", x("trusted.keep", "4")),
		file(".wh..wh.aufs", ""),
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(result.Warnings)
	want := `[an entry that AUFS left in a layer was ignored (of ".wh..wh.aufs") ` +
		`the extended attribute security.selinux was left out (2 times, first of "a") ` +
		`the extended attribute system.posix_acl_access was left out (of "b") ` +
		`the extended attribute user.overlay.opaque was left out (of "b")]`
	if got != want {
		t.Errorf("warnings\n%s, want\n%s", got, want)
	}
	if xattrs := strings.Fields(list["a"].Xattrs); len(xattrs) < 3 || list["b"].Xattrs != "" {
		t.Errorf("xattrs of a: %q, of b: %q", list["a"].Xattrs, list["b"].Xattrs)
	}
}

func TestAllRoot(t *testing.T) {
	list, _, err := squash(t, build(t, tree{dir("d", 0o755, testtree.Owner(1, 2)), file("d/f", "f", testtree.Owner(3, 4))}),
		&convert.Options{AllRoot: true})
	if err != nil {
		t.Fatal(err)
	}
	for path, n := range list {
		if n.UID != 0 || n.GID != 0 {
			t.Errorf("%s belongs to %d:%d", path, n.UID, n.GID)
		}
	}
}

// TestCancel cancels at any time, and wants nothing left of it.
func TestCancel(t *testing.T) {
	img := sample(t)
	before := runtime.NumGoroutine()
	finished := 0
	for i := range 60 {
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		var opts convert.Options
		if i%2 == 0 {
			left := atomic.Int64{}
			left.Store(int64(i / 2))
			opts.Progress = func(convert.Event) {
				if left.Add(-1) < 0 {
					cancel()
				}
			}
		} else {
			time.AfterFunc(time.Duration(rand.N(30*time.Millisecond)), cancel)
		}
		_, err := convert.Convert(ctx, convert.FromImage(img), filepath.Join(dir, "image.sif"), &opts)
		cancel()
		left := readDir(t, dir)
		switch {
		case err == nil:
			finished++
			if len(left) != 1 {
				t.Errorf("done, but there is %v", left)
			}
		case !errors.Is(err, context.Canceled):
			t.Errorf("error %v", err)
		case len(left) > 0:
			t.Errorf("cancelled, but there is %v", left)
		}
	}
	t.Logf("%d of 60 finished", finished)
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

func TestProgress(t *testing.T) {
	var events []convert.Event
	dst := filepath.Join(t.TempDir(), "image.sif")
	result, err := convert.Convert(t.Context(), convert.FromImage(sample(t)), dst, &convert.Options{
		Progress: func(e convert.Event) { events = append(events, e) },
	})
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]convert.Event{}
	for _, e := range events {
		key := string(e.Stage) + " " + e.Name
		if e.Done < last[key].Done && e.Stage != convert.StageLayer {
			t.Errorf("%s goes back from %d to %d", key, last[key].Done, e.Done)
		}
		last[key] = e
	}
	for _, l := range result.Layers {
		if e := last["layer "+string(l.Digest)[:19]]; e.Done != l.Size || e.Total != l.Size {
			t.Errorf("layer %s of %d bytes: last event %+v", l.Digest, l.Size, e)
		}
	}
	for _, stage := range []string{"merge ", "write "} {
		if e, ok := last[stage]; !ok || e.Done != e.Total {
			t.Errorf("stage %s: last event %+v", stage, e)
		}
	}
}

func TestResultIsJSON(t *testing.T) {
	_, result, err := squash(t, sample(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(result)
	if err != nil {
		t.Fatal(err)
	}
	var back convert.Result
	if err := json.Unmarshal(data, &back); err != nil || back.Size != result.Size || len(back.Layers) != 3 {
		t.Errorf("%s: %v", data, err)
	}
}
