package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hpcimg/image"
	"hpcimg/image/cache"
)

// pullerEnv makes this test binary a process that pulls the layers of an image through a cache: "<reference> <directory> <n>", n
// times side by side.
const pullerEnv = "HPCIMG_IMAGE_TEST_PULL"

func TestMain(m *testing.M) {
	if text := os.Getenv(pullerEnv); text != "" {
		var ref, dir string
		var n int
		if _, err := fmt.Sscan(text, &ref, &dir, &n); err != nil {
			panic(err)
		}
		if err := pullMany(ref, dir, n); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// pullMany pulls an image n times at once, each time as if it were a process of its own: with its own cache handle and client.
func pullMany(ref, dir string, n int) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = pullThrough(context.Background(), ref, dir) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func pullThrough(ctx context.Context, ref, dir string) error {
	c, err := cache.Open(dir, nil)
	if err != nil {
		return err
	}
	opts := &image.Options{Cache: c, Platform: &image.Platform{OS: "linux", Architecture: "amd64"}, Registry: image.RegistryOptions{PlainHTTP: true}}
	img, err := image.Open(ctx, ref, opts)
	if err != nil {
		return err
	}
	for _, l := range img.Layers() {
		rc, err := l.Open(ctx)
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, rc) // which verifies
		if err != nil || n != l.Descriptor.Size {
			return fmt.Errorf("%d of %d bytes: %w", n, l.Descriptor.Size, err)
		}
		if err := rc.Close(); err != nil {
			return err
		}
	}
	return nil
}

// puller is a process that pulls.
func puller(t *testing.T, ref, dir string, n int) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", pullerEnv, ref, dir, n))
	return cmd
}

// counting is a registry that counts what it gives of each blob, and can hold back the rest of one.
type counting struct {
	*httptest.Server
	image *image.Image

	mu    sync.Mutex
	given map[string]int64 // bytes, by digest
	asked map[string]int
	hold  int64         // bytes of a layer after which nothing more comes, if not 0
	held  chan struct{} // hears when that is reached
}

func newCounting(t *testing.T, layers ...[]byte) *counting {
	t.Helper()
	var inputs []image.LayerInput
	for _, l := range layers {
		inputs = append(inputs, image.LayerInput{Tar: l, Compression: image.CompressionNone})
	}
	img, err := image.Build(image.Config{Platform: image.Platform{OS: "linux", Architecture: "amd64"}}, inputs...)
	if err != nil {
		t.Fatal(err)
	}
	c := &counting{image: img, given: map[string]int64{}, asked: map[string]int{}, held: make(chan struct{}, 100)}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *counting) ref() string {
	return "docker://" + strings.TrimPrefix(c.URL, "http://") + "/a/b:v1"
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	switch {
	case r.URL.Path == "/v2/":
	case strings.Contains(r.URL.Path, "/manifests/"):
		w.Header().Set("Content-Type", c.image.Descriptor().MediaType)
		_, _ = w.Write(c.image.RawManifest())
	default:
		c.blob(w, r, name)
	}
}

func (c *counting) blob(w http.ResponseWriter, r *http.Request, name string) {
	m := c.image.Manifest()
	for _, d := range append(m.Layers, m.Config) {
		if d.Digest.String() != name {
			continue
		}
		rc, err := c.image.OpenBlob(r.Context(), d)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		raw, _ := io.ReadAll(rc)
		_ = rc.Close()
		c.mu.Lock()
		c.asked[name]++
		hold := c.hold
		c.mu.Unlock()
		if hold == 0 || d.Size < hold {
			hold = d.Size
		}
		http.ServeContent(&countingWriter{ResponseWriter: w, c: c, name: name, left: hold, done: r.Context().Done()}, r, "", time.Time{}, bytes.NewReader(raw))
		return
	}
	w.WriteHeader(http.StatusNotFound)
}

type countingWriter struct {
	http.ResponseWriter
	c    *counting
	name string
	left int64
	done <-chan struct{}
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p[:min(int64(len(p)), w.left)])
	w.left -= int64(n)
	w.c.mu.Lock()
	w.c.given[w.name] += int64(n)
	w.c.mu.Unlock()
	if n < len(p) && err == nil {
		w.ResponseWriter.(http.Flusher).Flush()
		w.c.held <- struct{}{}
		<-w.done
		err = io.ErrShortWrite
	}
	return n, err
}

// random is a layer that no two have the same of.
func random(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed, 99}).Read(b)
	return b
}

// TestResumeAcrossProcesses kills processes that download a layer, at several places, and wants the next one to go on there.
func TestResumeAcrossProcesses(t *testing.T) {
	const size = 12<<20 + 345
	reg := newCounting(t, random(size, 1))
	layer := reg.image.Layers()[0].Descriptor.Digest.String()
	dir := filepath.Join(t.TempDir(), "cache")
	kills := []int64{3<<20 + 1, 4 << 20, 10<<20 + 99_999}
	var sent int64
	for _, at := range kills {
		reg.mu.Lock()
		reg.hold = at - sent&^(1<<20-1) // the next one begins at the last whole MiB
		reg.mu.Unlock()
		sent = at
		p := puller(t, reg.ref(), dir, 1)
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-reg.held:
		case <-time.After(20 * time.Second):
			t.Fatal("the registry was not asked")
		}
		waitForSums(t, dir, at>>20)
		if err := p.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.Wait()
	}
	reg.mu.Lock()
	reg.hold = 0
	reg.mu.Unlock()
	if out, err := puller(t, reg.ref(), dir, 1).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	reg.mu.Lock()
	defer reg.mu.Unlock()
	twice := reg.given[layer] - size
	t.Logf("killed %d times, %d bytes downloaded twice", len(kills), twice)
	if twice > int64(len(kills))<<20 {
		t.Errorf("%d bytes were downloaded twice by %d that were killed", twice, len(kills))
	}
}

// waitForSums waits until n MiB of a blob are on their way in the cache.
func waitForSums(t *testing.T, dir string, n int64) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		paths, err := filepath.Glob(filepath.Join(dir, "v1", "blob", "*", ".resume-*.sums"))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			if info, err := os.Stat(p); err == nil && info.Size() >= 256+8*n {
				return
			}
		}
	}
	t.Fatalf("%d MiB did not arrive", n)
}
