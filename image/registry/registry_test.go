package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"hpcimg/image"
	"hpcimg/image/registry"
	"hpcimg/internal/oracle"
)

func build(t testing.TB, author string, layers ...[]byte) *image.Image {
	t.Helper()
	var in []image.LayerInput
	for _, l := range layers {
		in = append(in, image.LayerInput{Tar: l, Compression: image.CompressionNone})
	}
	img, err := image.Build(image.Config{Author: author}, in...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// server is a registry in this process that counts uploads.
type server struct {
	host    string
	uploads atomic.Int32
}

func newServer(t testing.TB) *server {
	s := &server{}
	h := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/") {
			s.uploads.Add(1)
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	s.host = strings.TrimPrefix(srv.URL, "http://")
	return s
}

// program starts Debian's docker-registry on a loopback port, with a user called me if password is set, and returns its host.
func program(t *testing.T, password bool) string {
	t.Helper()
	bin := oracle.Tool(t, "docker-registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	_ = l.Close()
	dir := t.TempDir()
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n",
		filepath.Join(dir, "data"), host)
	if password {
		// bcrypt of "secret"
		users := filepath.Join(dir, "htpasswd")
		write(t, users, "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n")
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s}}\n", users)
	}
	write(t, filepath.Join(dir, "config.yml"), config)
	cmd := exec.Command(bin, "serve", filepath.Join(dir, "config.yml"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("docker-registry: %s", out.String())
		}
	})
	for range 200 {
		if c, err := net.Dial("tcp", host); err == nil {
			_ = c.Close()
			return host
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("docker-registry does not answer: %s", out.String())
	return ""
}

func write(t testing.TB, name, data string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// same compares two images with all their bytes.
func same(t *testing.T, got, want *image.Image) {
	t.Helper()
	if !bytes.Equal(got.RawManifest(), want.RawManifest()) || !bytes.Equal(got.RawConfig(), want.RawConfig()) {
		t.Errorf("documents differ: %s, %s", got.RawManifest(), want.RawManifest())
	}
	for i, l := range got.Layers() {
		a, b := read(t, l), read(t, want.Layers()[i])
		if !bytes.Equal(a, b) {
			t.Errorf("layer %d differs", i)
		}
	}
}

func read(t *testing.T, l image.Layer) []byte {
	t.Helper()
	rc, err := l.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPush(t *testing.T) {
	s := newServer(t)
	base, top := bytes.Repeat([]byte("base"), 1<<20), []byte("top")
	first, second := build(t, "a", base, top, top), build(t, "b", base)
	for _, step := range []struct {
		img     *image.Image
		ref     string
		uploads int32
	}{
		{first, "/a/b:v1", 3}, // the layer that is there twice goes once
		{first, "/a/b:v2", 0},
		{second, "/a/b:v3", 1},
		{second, "/a/b@" + second.Descriptor().Digest.String(), 0},
	} {
		s.uploads.Store(0)
		ref := "docker://" + s.host + step.ref
		d, err := registry.Push(t.Context(), step.img, ref, nil)
		if err != nil {
			t.Fatal(err)
		}
		if d.Digest != step.img.Descriptor().Digest || d.Size != step.img.Descriptor().Size {
			t.Errorf("%s: pushed %+v", step.ref, d)
		}
		if n := s.uploads.Load(); n != step.uploads {
			t.Errorf("%s: %d uploads, want %d", step.ref, n, step.uploads)
		}
		got, err := image.Open(t.Context(), ref, nil)
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, step.img)
	}

	c := registry.NewClient(nil)
	tags, err := c.Tags(t.Context(), "docker://"+s.host+"/a/b")
	if diff := cmp.Diff([]string{"v1", "v2", "v3"}, tags[:min(3, len(tags))]); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	d, err := c.Resolve(t.Context(), "docker://"+s.host+"/a/b:v1")
	if want := first.Descriptor(); err != nil || d.Digest != want.Digest || d.Size != want.Size || d.MediaType != want.MediaType {
		t.Errorf("resolved to %+v, %v", d, err)
	}
}

func TestPushProgress(t *testing.T) {
	s := newServer(t)
	img := build(t, "a", bytes.Repeat([]byte("x"), 8<<20), []byte("y"))
	push := func() map[string]registry.Event {
		last := map[string]registry.Event{}
		_, err := registry.Push(t.Context(), img, "docker://"+s.host+"/a", &registry.PushOptions{
			Progress: func(e registry.Event) { // without a lock: calls do not overlap
				key := e.Descriptor.Digest.String()
				if prev, ok := last[key]; ok && (prev.Complete || prev.Done > e.Done) {
					t.Errorf("%+v after %+v", e, prev)
				}
				last[key] = e
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return last
	}
	for _, exists := range []bool{false, true} {
		last := push()
		if len(last) != 4 {
			t.Errorf("events of %d descriptors, want 4", len(last))
		}
		for _, e := range last {
			manifest := e.Descriptor.Digest == img.Descriptor().Digest
			if !e.Complete || e.Done != e.Descriptor.Size || (e.Exists != exists && !manifest) {
				t.Errorf("last event %+v", e)
			}
		}
	}
}

func TestPushErrors(t *testing.T) {
	s, img := newServer(t), build(t, "a", []byte("layer"))

	// A layout whose layer was damaged cannot damage the registry.
	dir := t.TempDir()
	if _, err := image.WriteLayout(t.Context(), dir, img, "v1"); err != nil {
		t.Fatal(err)
	}
	damaged, err := image.Open(t.Context(), "oci:"+dir+":v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	layer := img.Layers()[0].Descriptor.Digest
	if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", layer.Encoded()), []byte("Layer"), 0o644); err != nil {
		t.Fatal(err)
	}
	ref := "docker://" + s.host + "/a:v1"
	if _, err := registry.Push(t.Context(), damaged, ref, nil); !errors.Is(err, image.ErrDigest) {
		t.Errorf("damaged layer: %v, want ErrDigest", err)
	}
	if _, err := image.Open(t.Context(), ref, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after a failed push: %v, want ErrNotExist", err)
	}

	for _, bad := range []string{"oci:x", "nonsense", "docker://"} {
		if _, err := registry.Push(t.Context(), img, bad, nil); !errors.Is(err, image.ErrReference) {
			t.Errorf("%s: %v, want ErrReference", bad, err)
		}
	}
	other := "docker://" + s.host + "/a@" + layer.String()
	if _, err := registry.Push(t.Context(), img, other, nil); !errors.Is(err, image.ErrDigest) {
		t.Errorf("push under another digest: %v, want ErrDigest", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := registry.Push(ctx, img, ref, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}

	c := registry.NewClient(nil)
	if _, err := c.Tags(t.Context(), "docker://"+s.host+"/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("tags of nothing: %v", err)
	}
	if _, err := c.Resolve(t.Context(), "docker://"+s.host+"/none:v1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("resolve nothing: %v", err)
	}
	if _, err := c.Tags(t.Context(), "oci:x"); !errors.Is(err, image.ErrReference) {
		t.Errorf("tags of a layout: %v", err)
	}
}

func TestDockerRegistry(t *testing.T) {
	host := program(t, false)
	img := build(t, "a", bytes.Repeat([]byte("large"), 1<<20), []byte("small"))
	ref := "docker://" + host + "/tools/x:v1"
	for range 2 {
		if _, err := registry.Push(t.Context(), img, ref, nil); err != nil {
			t.Fatal(err)
		}
	}
	got, err := image.Open(t.Context(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, img)
	for _, missing := range []string{"/tools/x:v2", "/tools/y:v1"} {
		if _, err := image.Open(t.Context(), "docker://"+host+missing, nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", missing, err)
		}
	}
	c := registry.NewClient(nil)
	tags, err := c.Tags(t.Context(), "docker://"+host+"/tools/x")
	if diff := cmp.Diff([]string{"v1"}, tags); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	d, err := c.Resolve(t.Context(), ref)
	if err != nil || d.Digest != img.Descriptor().Digest || d.Size != img.Descriptor().Size {
		t.Errorf("resolved to %+v, %v", d, err)
	}
}

// TestDockerSchema2: skopeo makes Docker's own format of our image, on a registry that knows it, with a manifest list besides.
func TestDockerSchema2(t *testing.T) {
	host, dir := program(t, false), t.TempDir()
	img, err := image.Build(image.Config{Author: "a"}, image.LayerInput{Tar: bytes.Repeat([]byte("layer"), 1000)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := image.WriteLayout(t.Context(), dir, img, "v1"); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", "--format", "v2s2",
		"oci:"+dir+":v1", "docker://"+host+"/x:v1")
	got, err := image.Open(t.Context(), "docker://"+host+"/x:v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if mt := got.Descriptor().MediaType; mt != "application/vnd.docker.distribution.manifest.v2+json" {
		t.Errorf("media type %s", mt)
	}
	l := got.Layers()[0]
	if l.Compression() != image.CompressionGzip || !bytes.Equal(read(t, l), read(t, img.Layers()[0])) {
		t.Errorf("layer %+v", l.Descriptor)
	}
	// Pushing it on keeps it as it is.
	if _, err := registry.Push(t.Context(), got, "docker://"+host+"/y:v1", nil); err != nil {
		t.Fatal(err)
	}
	again, err := image.Open(t.Context(), "docker://"+host+"/y:v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	same(t, again, got)
}

func TestDockerRegistryLogin(t *testing.T) {
	host := program(t, true)
	img := build(t, "a", []byte("layer"))
	ref := "docker://" + host + "/x:v1"
	_, err := registry.Push(t.Context(), img, ref, nil)
	if ue, ok := errors.AsType[*image.UnauthorizedError](err); !ok || ue.Host != host {
		t.Errorf("anonymous push: %v, want *UnauthorizedError", err)
	}
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, fmt.Sprintf(`{"auths":{%q:{"auth":"bWU6c2VjcmV0"}}}`, host)) // me:secret
	login := image.RegistryOptions{Credentials: registry.DockerConfig(path)}
	if _, err := registry.Push(t.Context(), img, ref, &registry.PushOptions{Registry: login}); err != nil {
		t.Fatal(err)
	}
	got, err := image.Open(t.Context(), ref, &image.Options{Registry: login})
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, img)
	wrong := image.RegistryOptions{Credentials: func(context.Context, string) (image.Credential, error) {
		return image.Credential{Username: "me", Password: "guess"}, nil
	}}
	if _, err = image.Open(t.Context(), ref, &image.Options{Registry: wrong}); err == nil || strings.Contains(err.Error(), "guess") {
		t.Errorf("wrong password: %v", err)
	}
	if _, ok := errors.AsType[*image.UnauthorizedError](err); !ok {
		t.Errorf("wrong password: %v, want *UnauthorizedError", err)
	}
}
