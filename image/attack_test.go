package image_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"

	"hpcimg/image"
)

// printable reports whether text can be shown on a terminal without moving its cursor, hiding or reordering anything.
func printable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) })
}

// TestFoldedKeys: encoding/json takes a long s for an s, and the Kelvin sign for a k, so a document could show one list of layers to
// a scanner and another one to us.
func TestFoldedKeys(t *testing.T) {
	other := layer(string(digest.FromString("layer")), sha256Digest)
	for _, tc := range []struct {
		field string
		make  func(b blobs) image.Descriptor
	}{
		{"layerſ", manifestOf("", "", `,"layerſ":[`+other+`]`)},
		{"manifeſts", indexOf("", `,"manifeſts":[`+entry()+`]`)},
		{"layers[0].digeſt", manifestOf("", "["+layer(`"size":5`, `"size":5,"digeſt":"`+sha256Digest+`"`)+"]", "")},
		{"layers[0].\u017fize", manifestOf("", "["+layer(`"size":5`, `"size":5,"`+"\u017f"+`ize":6`)+"]", "")},
		{"rootfſ", configOf(strings.Replace(goodConfig, `"config":{}`, `"config":{},"rootf`+"\u017f"+`":{}`, 1))},
		{"oſ", configOf(strings.Replace(goodConfig, `"config":{}`, `"config":{},"o\u017f":"x"`, 1))},
	} {
		b := blobs{}
		_, err := image.New(t.Context(), tc.make(b), b, amd64())
		if doc, ok := errors.AsType[*image.DocumentError](err); !ok || doc.Field != tc.field {
			t.Errorf("%s: got %v", tc.field, err)
		}
	}
}

// TestErrorTexts: whatever a document says, the error about it is short and can be printed.
func TestErrorTexts(t *testing.T) {
	const escape = `\u001b]0;owned\u0007\u202e\u0085`
	digits := strings.Repeat("7", 1<<20)
	long := strings.Repeat("x", 1<<20)
	for _, tc := range []struct {
		name string
		make func(b blobs) image.Descriptor
	}{
		{"number", manifestOf("", "["+layer(`"size":5`, `"size":`+digits)+"]", "")},
		{"fraction", manifestOf("", "["+layer(`"size":5`, `"size":1.`+digits)+"]", "")},
		{"schemaVersion", raw(typeManifest, `{"schemaVersion":`+digits+`}`)},
		{"time", configOf(strings.Replace(goodConfig, `"config":{}`, `"config":{},"created":"`+long+`"`, 1))},
		{"time with escapes", configOf(strings.Replace(goodConfig, `"config":{}`, `"config":{},"created":"`+escape+`"`, 1))},
		{"duplicate key", manifestOf("", "", `,"`+escape+`":1,"`+escape+`":2`)},
		{"nested key", manifestOf("", "", `,"`+escape+long+`":{"`+escape+`":1,"`+escape+`":2}`)},
		{"deep keys", manifestOf("", "", strings.Repeat(`,"`+long[:1000]+`":{"a":1`, 1)+strings.Repeat(`,"`+long[:1000]+`":{"a":1`, 28)+`,"a":2`+strings.Repeat("}", 29))},
		{"platform", indexOf(entry(`"os":"linux"`, `"os":"`+escape+`"`)+","+entry(`"architecture":"amd64"`, `"architecture":"`+escape+long+`"`), "")},
		{"label", configOf(strings.Replace(goodConfig, `"config":{}`, `"config":{"Labels":{"`+escape+`\u0000":"a"}}`, 1))},
		{"media type", raw(typeManifest, `{"schemaVersion":2,"mediaType":"`+escape+`"}`)},
		{"artifact type", manifestOf(`{"mediaType":"a/b","digest":"`+sha256Digest+`","size":0}`, "", `,"artifactType":"`+escape+`"`)},
		{"digest", manifestOf("", "["+layer(string(digest.FromString("layer")), escape+long)+"]", "")},
		{"working directory", configOf(strings.Replace(goodConfig, `"config":{}`, `"config":{"WorkingDir":"/../`+escape+`"}`, 1))},
		{"letter case", manifestOf("", "", `,"LAYERS":[]`)},
		{"not JSON", raw(typeManifest, "\x1b[31m")},
		{"not UTF-8", manifestOf("", "", ",\"\xff\xfe\":1,\"\xff\xfe\":2")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := blobs{}
			_, err := image.New(t.Context(), tc.make(b), b, amd64())
			if err == nil {
				t.Fatal("no error")
			}
			if text := err.Error(); len(text) > 2000 || !printable(text) {
				t.Errorf("%d bytes: %.300q", len(text), text)
			}
		})
	}
}

// TestErrorTextsOfReferences: a reference may come from a job script that somebody else wrote.
func TestErrorTextsOfReferences(t *testing.T) {
	for _, ref := range []string{
		"oci:/\x1b]0;owned\a/x", "oci:/none\u202e:\x1b[1m", "oci-archive:/none\x1b[1m", "docker-archive:/none\u0085", "\x1b[1m:x",
		"docker://\x1b[1m/x", "docker://h.example/\x1b", "docker://h.example/x:\u202e", "docker://h.example/x@sha256:\x1b", "docker://h\xff/x",
		"sif:\x1b[1m", strings.Repeat("ö", 5000), "oci:" + strings.Repeat("ö", 2000),
	} {
		_, err := image.Open(t.Context(), ref, nil)
		if err == nil {
			t.Errorf("%.40q: no error", ref)
			continue
		}
		if text := err.Error(); len(text) > 2000 || !printable(text) {
			t.Errorf("%.40q: %d bytes: %.300q", ref, len(text), text)
		}
	}
}

// TestOpenReferenceValidates: a Reference need not come from ParseReference, and what it holds goes into paths and URLs.
func TestOpenReferenceValidates(t *testing.T) {
	f := newFakeRegistry(t, nil)
	f.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v2/" {
			t.Errorf("asked for %s", r.URL)
		}
		return false
	}
	dir := t.TempDir()
	for _, ref := range []image.Reference{
		{},
		{Transport: "ftp", Path: dir},
		{Transport: image.TransportDocker},
		{Transport: image.TransportDocker, Host: f.host, Tag: "v1"},
		{Transport: image.TransportDocker, Host: f.host, Repository: "a"},
		{Transport: image.TransportDocker, Host: f.host, Repository: "a", Tag: "../../other/manifests/v1"},
		{Transport: image.TransportDocker, Host: f.host, Repository: "a", Tag: "v1?x=y"},
		{Transport: image.TransportDocker, Host: f.host, Repository: "a", Tag: "v1\nX: y"},
		{Transport: image.TransportDocker, Host: f.host, Repository: "../a", Tag: "v1"},
		{Transport: image.TransportDocker, Host: f.host, Repository: "A", Tag: "v1"},
		{Transport: image.TransportDocker, Host: f.host + "/x", Repository: "a", Tag: "v1"},
		{Transport: image.TransportDocker, Host: "user@" + f.host, Repository: "a", Tag: "v1"},
		{Transport: image.TransportDocker, Host: f.host, Repository: "a", Digest: "latest"},
		{Transport: image.TransportDocker, Host: f.host, Repository: "a", Digest: "sha256:../../../x"},
		{Transport: image.TransportDocker, Host: f.host, Repository: "a", Tag: "v1", Path: "/x"},
		{Transport: image.TransportOCI, Path: ""},
		{Transport: image.TransportOCI, Path: dir, Digest: "latest"},
		{Transport: image.TransportOCI, Path: dir, Digest: "sha256:../../../x"},
		{Transport: image.TransportOCI, Path: dir, Host: "h", Repository: "r"},
		{Transport: image.TransportOCIArchive, Path: dir + "\x00"},
	} {
		if _, err := image.OpenReference(t.Context(), ref, nil); !errors.Is(err, image.ErrReference) {
			t.Errorf("%+v: got %v, want ErrReference", ref, err)
		}
	}
	// What parsing cannot express is fine where it is safe: a colon in the path of a layout.
	if _, err := image.OpenReference(t.Context(), image.Reference{Transport: image.TransportOCI, Path: dir + "/a:b"}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("path with a colon: %v, want ErrNotExist", err)
	}
}

// TestManyPlatforms: an index of ten thousand platforms that nobody wants costs milliseconds, not minutes.
func TestManyPlatforms(t *testing.T) {
	b := blobs{}
	var entries []string
	for i := range 9_999 {
		entries = append(entries, entry(`"amd64"`, fmt.Sprintf(`"arch%d"`, i)))
	}
	root := indexOf(strings.Join(entries, ","), "")(b)
	started := time.Now()
	_, err := image.New(t.Context(), root, b, amd64())
	if pe, ok := errors.AsType[*image.PlatformError](err); !ok || len(pe.Have) == 0 || len(err.Error()) > 2000 {
		t.Errorf("got %.300v", err)
	}
	if d := time.Since(started); d > 10*time.Second {
		t.Errorf("took %s", d)
	}
}

// TestCostlyJSON: the deepest and widest document that is allowed costs what its size costs.
func TestCostlyJSON(t *testing.T) {
	cost := func(depth int) time.Duration {
		key := `"` + strings.Repeat("k", 80) + `":`
		elements := "[" + strings.Repeat("0,", 60_000) + "0]"
		var doc strings.Builder
		doc.WriteString(strings.Repeat(key+"{", depth))
		for i := range 2 {
			fmt.Fprintf(&doc, `"%d":%s,`, i, elements)
		}
		doc.WriteString(`"z":0` + strings.Repeat("}", depth))
		b := blobs{}
		root := manifestOf("", "", ","+doc.String())(b)
		least := time.Hour
		for range 3 {
			started := time.Now()
			if _, err := image.New(t.Context(), root, b, amd64()); err != nil {
				t.Fatal(err)
			}
			least = min(least, time.Since(started))
		}
		return least
	}
	if flat, deep := cost(1), cost(30); deep > 3*flat {
		t.Errorf("%s instead of %s", deep, flat)
	}
}

// TestPlatformDefaults: half a platform is completed, not searched for in vain.
func TestPlatformDefaults(t *testing.T) {
	b := blobs{}
	root := platformIndex(b, typeIndex, "linux/amd64", "linux/arm64", "linux/"+runtime.GOARCH)
	for _, tc := range []struct {
		p    image.Platform
		want string
	}{
		{image.Platform{}, runtime.GOARCH},
		{image.Platform{Architecture: "arm64"}, "arm64"},
		{image.Platform{OS: "linux"}, runtime.GOARCH},
	} {
		img, err := image.New(t.Context(), root, b, &image.Options{Platform: &tc.p})
		if err != nil || img.Platform().Architecture != tc.want {
			t.Errorf("%+v: %v", tc.p, err)
		}
	}
}

// TestFileNameIsPlain: names of files have no ellipsis in them, however long the repository is.
func TestFileNameIsPlain(t *testing.T) {
	ref, err := image.ParseReference("docker://h.example/" + strings.Repeat("x", 190) + ":" + strings.Repeat("v", 100))
	if err != nil {
		t.Fatal(err)
	}
	name := ref.FileName(".sif")
	if len(name) > 255 || strings.ContainsFunc(name, func(r rune) bool { return r > 126 }) || !strings.HasSuffix(name, ".sif") {
		t.Errorf("%d bytes: %s", len(name), name)
	}
}

// TestMissingTransportHint: the commonest mistake is a reference as docker takes it.
func TestMissingTransportHint(t *testing.T) {
	for ref, hint := range map[string]string{
		"ubuntu:22.04":               "docker://ubuntu:22.04",
		"ghcr.io/org/app":            "docker://ghcr.io/org/app",
		"registry.test:5000/a/b:v1":  "docker://registry.test:5000/a/b:v1",
		"docker:ubuntu":              "docker://HOST/REPOSITORY",
		"docker-archive:":            "no path",
		"image.sif":                  "sif:image.sif",
		"/data/image.sif":            "sif:/data/image.sif",
		"docker://ubuntu@sha256:abc": "sha256",
	} {
		_, err := image.Open(context.Background(), ref, nil)
		if !errors.Is(err, image.ErrReference) || !strings.Contains(err.Error(), hint) {
			t.Errorf("%s: %v does not say %s", ref, err, hint)
		}
	}
}

// TestLayoutSwappedForPipe: somebody who can write to a layout replaces a file by a pipe between the look at it and its opening.
// Opening a pipe waits for a writer, which no context would end.
func TestLayoutSwappedForPipe(t *testing.T) {
	dir := t.TempDir()
	if _, err := image.WriteLayout(t.Context(), dir, sample(t), "v1"); err != nil {
		t.Fatal(err)
	}
	name, next := filepath.Join(dir, "index.json"), filepath.Join(dir, "next")
	file, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "pipe")
	if err := errors.Join(os.Rename(name, file), syscall.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	stop, opened := make(chan struct{}), make(chan struct{})
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, other := range []string{pipe, file} {
				_ = os.Link(other, next)
				_ = os.Rename(next, name)
			}
		}
	})
	go func() {
		defer close(opened)
		for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
			_, _ = image.Open(context.Background(), "oci:"+dir+":v1", amd64())
		}
	}()
	select {
	case <-opened:
	case <-time.After(10 * time.Second):
		t.Error("opening a layout hangs in a pipe")
		// Whoever hangs is set free by a writer.
		if w, err := os.OpenFile(pipe, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			_ = w.Close()
		}
		<-opened
	}
	close(stop)
	swapper.Wait()
}
