package image_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hpcimg/image"
	"hpcimg/internal/oracle"
)

// plainImage has layers that are not compressed, as Docker keeps them.
func plainImage(t *testing.T) *image.Image {
	t.Helper()
	img, err := image.Build(sample(t).Config(),
		image.LayerInput{Tar: layerTar(t, "a", "first"), Compression: image.CompressionNone},
		image.LayerInput{Tar: layerTar(t, "b", "second"), Compression: image.CompressionNone})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func dockerArchive(t *testing.T, img *image.Image, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := image.WriteDockerArchive(t.Context(), &b, img, name); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sameLayers compares what two images consist of, however it is compressed.
func sameLayers(t *testing.T, got, want *image.Image) {
	t.Helper()
	g, w := got.Layers(), want.Layers()
	if len(g) != len(w) {
		t.Fatalf("%d layers, want %d", len(g), len(w))
	}
	for i := range g {
		if g[i].DiffID != w[i].DiffID {
			t.Errorf("layer %d: diffID %s, want %s", i, g[i].DiffID, w[i].DiffID)
		}
		_ = readLayer(t, g[i])
	}
}

// serveDaemon answers on a socket, and returns its address.
func serveDaemon(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hpcimg-daemon-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return "unix://" + filepath.Join(dir, "s")
}

// TestDaemon: what a daemon sends becomes an image, or an error that says what is wrong; nothing stays in the directory for
// temporary files.
func TestDaemon(t *testing.T) {
	img := plainImage(t)
	archive := dockerArchive(t, img, "example.org/tools:v1")
	address := serveDaemon(t, func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("names")
		switch {
		case r.URL.Path != "/images/get":
			t.Errorf("asked for %s", r.URL.Path)
		case name == "tools:v1" || name == "sha256:"+strings.Repeat("ab", 32):
			_, _ = w.Write(archive)
		case name == "cut":
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write(archive[:len(archive)/2])
		case name == "nothing":
		case name == "elsewhere":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case name == "broken":
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, `{"message":"disk \u001b[31mfull"}`)
		case name == "endless":
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, strings.Repeat("x", 10<<20))
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"message":"No such image: `+name+`"}`)
		}
	})
	temp := t.TempDir()
	open := func(name string) (*image.Image, error) {
		return image.Open(t.Context(), "docker-daemon:"+name, &image.Options{Daemon: image.DaemonOptions{Address: address}, TempDir: temp})
	}
	for _, name := range []string{"tools:v1", "sha256:" + strings.Repeat("ab", 32)} {
		got, err := open(name)
		if err != nil {
			t.Fatal(err)
		}
		sameLayers(t, got, img)
	}
	transport := func(err error) bool { _, ok := errors.AsType[*image.TransportError](err); return ok }
	for name, is := range map[string]func(error) bool{
		"missing":   func(err error) bool { return errors.Is(err, fs.ErrNotExist) },
		"cut":       func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) },
		"nothing":   func(err error) bool { return errors.Is(err, fs.ErrNotExist) },
		"elsewhere": transport, "broken": transport, "endless": transport,
		"../x": func(err error) bool { return errors.Is(err, image.ErrReference) },
		"a b":  func(err error) bool { return errors.Is(err, image.ErrReference) },
	} {
		if _, err := open(name); !is(err) || len(err.Error()) > 2000 || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []string{"unix://", "tcp://192.0.2.1:2375", "ssh://host", "/run/docker.sock", "unix:///nowhere/at/all"} {
		if _, err := image.Open(t.Context(), "docker-daemon:x", &image.Options{Daemon: image.DaemonOptions{Address: bad}}); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestArchiveFromStream reads archives from a pipe, compressed as well.
func TestArchiveFromStream(t *testing.T) {
	img := plainImage(t)
	raw := dockerArchive(t, img, "tools:v1")
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for what, in := range map[string][]byte{"plain": raw, "gzip": packed.Bytes()} {
		for _, ref := range []string{"docker-archive:-", "docker-archive:-:tools:v1", "oci-archive:-", "oci-archive:-:v1"} {
			got, err := image.Open(t.Context(), ref, &image.Options{Input: bytes.NewReader(in)})
			if err != nil {
				t.Fatalf("%s %s: %v", what, ref, err)
			}
			sameLayers(t, got, img)
		}
	}
	for what, in := range map[string][]byte{
		"no archive": []byte("hello"), "cut": raw[:len(raw)/2], "cut gzip": packed.Bytes()[:packed.Len()/2], "empty": nil,
		"bzip2": []byte("BZh91AY"),
	} {
		dir := t.TempDir()
		if _, err := image.Open(t.Context(), "docker-archive:-", &image.Options{Input: bytes.NewReader(in), TempDir: dir}); err == nil {
			t.Errorf("%s: no error", what)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", what, left, err)
		}
	}
	if _, err := image.Open(t.Context(), "docker-archive:-", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without an input: %v", err)
	}
}

// TestLayoutInDockerArchive: what is given as a Docker archive may be an OCI archive.
func TestLayoutInDockerArchive(t *testing.T) {
	img := sample(t)
	path := filepath.Join(t.TempDir(), "x.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := image.WriteArchive(t.Context(), f, img, "v1"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"docker-archive:" + path, "docker-archive:" + path + ":v1"} {
		got, err := image.Open(t.Context(), ref, nil)
		if err != nil {
			t.Fatal(err)
		}
		sameImage(t, got, img)
	}
}

// podman runs podman with a store of its own.
func podman(t *testing.T) func(args ...string) []string {
	t.Helper()
	oracle.Root(t)
	oracle.Tool(t, "podman")
	dir, err := os.MkdirTemp("", "p") // Podman wants short paths below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return func(args ...string) []string {
		return append([]string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"}, args...)
	}
}

// TestPodman: Podman loads what we write, and we read what it has, saves and serves.
func TestPodman(t *testing.T) {
	with := podman(t)
	run := func(args ...string) string { return oracle.Run(t, "podman", with(args...)...) }
	img, dir := plainImage(t), t.TempDir()
	ours := filepath.Join(dir, "ours.tar")
	if err := os.WriteFile(ours, dockerArchive(t, img, "example.org/tools:v1"), 0o644); err != nil {
		t.Fatal(err)
	}
	run("load", "-q", "-i", ours)
	for form, transport := range map[string]string{"docker-archive": "docker-archive:", "oci-archive": "oci-archive:"} {
		saved := filepath.Join(dir, form+".tar")
		run("save", "-q", "--format", form, "-o", saved, "example.org/tools:v1")
		got, err := image.Open(t.Context(), transport+saved, nil)
		if err != nil {
			t.Fatal(err)
		}
		sameLayers(t, got, img)
	}
	socket := filepath.Join(strings.TrimSuffix(with()[1], "/root"), "s")
	service := exec.Command(oracle.Tool(t, "podman"), with("system", "service", "--time=0", "unix://"+socket)...)
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = service.Process.Signal(os.Interrupt)
		_ = service.Wait()
	}()
	for range 200 {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	opts := &image.Options{Daemon: image.DaemonOptions{Address: "unix://" + socket}}
	got, err := image.Open(t.Context(), "docker-daemon:example.org/tools:v1", opts)
	if err != nil {
		t.Fatal(err)
	}
	sameLayers(t, got, img)
	if _, err := image.Open(t.Context(), "docker-daemon:example.org/none:v1", opts); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of an image that is not there: %v", err)
	}
}
