package image_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hpcimg/image"
	"hpcimg/image/registry"
)

// fakeRegistry serves documents and blobs as they are put into it, however wrong.
type fakeRegistry struct {
	host     string
	blobs    blobs
	answer   func(w http.ResponseWriter, r *http.Request) bool // true if it has answered
	requests atomic.Int32
}

func newFakeRegistry(t *testing.T, b blobs) *fakeRegistry {
	f := &fakeRegistry{blobs: b}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	f.host = strings.TrimPrefix(s.URL, "http://")
	return f
}

func (f *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.requests.Add(1)
	if r.URL.Path == "/v2/" || (f.answer != nil && f.answer(w, r)) {
		return
	}
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	raw, ok := f.blobs[digest.Digest(name)]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_, _ = w.Write(raw)
}

// serveRoot answers requests for a tag with a document.
func (f *fakeRegistry) serveRoot(contentType, claimed string, raw []byte) {
	f.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/manifests/tag") {
			if strings.Contains(r.URL.Path, "/manifests/") {
				w.Header().Set("Content-Type", typeManifest)
			}
			return false
		}
		w.Header().Set("Content-Type", contentType)
		if claimed != "" {
			w.Header().Set("Docker-Content-Digest", claimed)
		}
		_, _ = w.Write(raw)
		return true
	}
}

func TestRemoteDocuments(t *testing.T) {
	b := blobs{}
	root := manifestOf("", "", "")(b)
	raw := b[root.Digest]
	typed := manifestOf("", "", `,"mediaType":"`+typeManifest+`"`)(b)
	for _, tc := range []struct {
		name, contentType, claimed string
		raw                        []byte
		want                       error
	}{
		{"good", typeManifest, root.Digest.String(), raw, nil},
		{"no digest header", typeManifest, "", raw, nil},
		{"sha512 header", typeManifest, digest.SHA512.FromBytes(raw).String(), raw, nil},
		{"charset", typeManifest + "; charset=utf-8", "", raw, nil},
		{"no type", "", "", raw, nil},
		{"plain JSON", "application/json", "", raw, nil},
		{"wrong digest header", typeManifest, sha256Digest, raw, image.ErrDigest},
		{"strange digest header", typeManifest, "md5:x", raw, image.ErrFormat},
		{"type contradicts document", typeDocker, "", b[typed.Digest], image.ErrFormat},
		{"says index, is manifest", typeIndex, "", raw, image.ErrFormat},
		{"HTML", "text/html", "", []byte("<html>"), image.ErrFormat},
		{"5 MiB", typeManifest, "", []byte(strings.Repeat(" ", 5<<20)), image.ErrLimit},
		{"schema 1", "application/vnd.docker.distribution.manifest.v1+prettyjws", "", []byte(`{"schemaVersion":1}`), errors.ErrUnsupported},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFakeRegistry(t, b)
			f.serveRoot(tc.contentType, tc.claimed, tc.raw)
			img, err := image.Open(t.Context(), "docker://"+f.host+"/a/b:tag", amd64())
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if tc.want == nil && img.Descriptor().MediaType != typeManifest {
				t.Errorf("descriptor %+v", img.Descriptor())
			}
			if n := f.requests.Load(); tc.want == nil && n != 3 {
				t.Errorf("%d requests for ping, manifest and config", n)
			}
		})
	}
}

func TestRemoteNestedIndex(t *testing.T) {
	b := blobs{}
	root := platformIndex(b, typeIndex, "linux/arm64", "linux/amd64")
	f := newFakeRegistry(t, b)
	f.serveRoot(typeIndex, root.Digest.String(), b[root.Digest])
	img, err := image.Open(t.Context(), "docker://"+f.host+"/a/b:tag", amd64())
	if err != nil {
		t.Fatal(err)
	}
	if img.Root().Digest != root.Digest || img.Platform().Architecture != "amd64" {
		t.Errorf("root %s, platform %+v", img.Root().Digest, img.Platform())
	}
	// The tag may move between requests: everything below the index is asked for by digest.
	_, err = image.Open(t.Context(), "docker://"+f.host+"/a/b@"+sha256Digest, amd64())
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown digest: %v", err)
	}
}

func TestRemoteDigestMismatch(t *testing.T) {
	b := blobs{}
	root := manifestOf("", "", "")(b)
	want := digest.FromString("what was asked for")
	b[want] = b[root.Digest]
	f := newFakeRegistry(t, b)
	_, err := image.Open(t.Context(), "docker://"+f.host+"/a/b@"+want.String(), amd64())
	de, ok := errors.AsType[*image.DigestError](err)
	if !ok || de.Descriptor.Digest != want || de.Got != root.Digest {
		t.Errorf("got %v, want *DigestError", err)
	}
}

func TestRemoteLayerFaults(t *testing.T) {
	b := blobs{}
	root := manifestOf("", "", "")(b)
	layer := digest.FromString("layer").String()
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		want   error
		typed  bool // *TransportError
	}{
		{"truncated", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "lay") }, image.ErrDigest, false},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, "lay")
		}, io.ErrUnexpectedEOF, true},
		{"longer", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "layers") }, image.ErrDigest, false},
		{"other", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "Layer") }, image.ErrDigest, false},
		{"stalled", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "lay")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, image.ErrStalled, true},
		{"gone", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, fs.ErrNotExist, false},
		{"server error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, nil, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFakeRegistry(t, b)
			f.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, layer) {
					return false
				}
				tc.answer(w, r)
				return true
			}
			opts := amd64()
			opts.Registry = image.RegistryOptions{IdleTimeout: 300 * time.Millisecond, RetryBudget: -1}
			img, err := image.Open(t.Context(), "docker://"+f.host+"/a/b@"+root.Digest.String(), opts)
			if err != nil {
				t.Fatal(err)
			}
			rc, err := img.Layers()[0].Open(t.Context())
			if err == nil {
				_, err = io.Copy(io.Discard, rc)
				_ = rc.Close()
			}
			if err == nil || (tc.want != nil && !errors.Is(err, tc.want)) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			te, ok := errors.AsType[*image.TransportError](err)
			if ok != tc.typed || (ok && te.Host != f.host) {
				t.Errorf("got %v, *TransportError: %t", err, ok)
			}
		})
	}
}

func TestRemoteErrors(t *testing.T) {
	denied := newFakeRegistry(t, nil)
	denied.answer = func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	_, err := image.Open(t.Context(), "docker://"+denied.host+"/a/b", nil)
	ue, ok := errors.AsType[*image.UnauthorizedError](err)
	if !ok || ue.Host != denied.host || !strings.Contains(err.Error(), "log in to "+denied.host) {
		t.Errorf("got %v, want *UnauthorizedError that names the cure", err)
	}

	limited := newFakeRegistry(t, nil)
	limited.answer = func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "7200")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	_, err = image.Open(t.Context(), "docker://"+limited.host+"/a/b", nil)
	te, ok := errors.AsType[*image.TransportError](err)
	if !ok || te.Status != http.StatusTooManyRequests || te.RetryAfter != 2*time.Hour || !strings.Contains(err.Error(), "2h") {
		t.Errorf("got %v, want *TransportError with RetryAfter", err)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := l.Addr().String()
	_ = l.Close()
	if _, err = image.Open(t.Context(), "docker://"+refused+"/a/b", nil); !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), refused) {
		t.Errorf("got %v, want ECONNREFUSED that names %s", err, refused)
	}

	// A resolver that knows nothing stands in for a name that nobody has.
	unknown := &http.Transport{DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: addr, IsNotFound: true}}
	}}
	_, err = image.Open(t.Context(), "docker://nowhere.invalid/a/b", &image.Options{Registry: image.RegistryOptions{Transport: unknown}})
	if _, ok := errors.AsType[*net.DNSError](err); !ok || !strings.Contains(err.Error(), "nowhere.invalid") || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want *net.DNSError", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = image.Open(ctx, "docker://"+limited.host+"/a/b", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}

func ExampleOpen() {
	ctx := context.Background()
	srv := httptest.NewServer(newExampleRegistry())
	defer srv.Close()
	ref := "docker://" + strings.TrimPrefix(srv.URL, "http://") + "/tools/hello:v1"

	built, err := image.Build(image.Config{}, image.LayerInput{Tar: make([]byte, 1024)})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := registry.Push(ctx, built, ref, nil); err != nil {
		fmt.Println(err)
		return
	}

	img, err := image.Open(ctx, ref, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, layer := range img.Layers() {
		fmt.Println(layer.Index, layer.Compression(), layer.DiffID)
	}
	fmt.Println(img.Reference().FileName(".sif"))
	// Output:
	// 0 gzip sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef
	// hello.v1.sif
}
