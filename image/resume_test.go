package image_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
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

// pullerEnv makes this test binary a process that pulls the layers of an image through a cache, as its value, a puller in JSON, says.
const pullerEnv = "HPCIMG_IMAGE_TEST_PULL"

func TestMain(m *testing.M) {
	if text := os.Getenv(pullerEnv); text != "" {
		var p puller
		err := json.Unmarshal([]byte(text), &p)
		if err == nil {
			err = p.pull(context.Background())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// puller pulls an image Times times at once, each time as if it were a process of its own: with its own cache handle and client.
type puller struct {
	Ref, Dir string
	Times    int
	Socket   string // where the registry is, if not at its address
	CA       []byte // authority of its certificate
	Password string // of me
}

func (p puller) pull(ctx context.Context) error {
	errs := make([]error, p.Times)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = p.pullOnce(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (p puller) pullOnce(ctx context.Context) error {
	c, err := cache.Open(p.Dir, nil)
	if err != nil {
		return err
	}
	img, err := image.Open(ctx, p.Ref, &image.Options{
		Cache: c, Registry: p.registry(), Platform: &image.Platform{OS: "linux", Architecture: "amd64"},
	})
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

func (p puller) registry() image.RegistryOptions {
	var o image.RegistryOptions
	if p.Socket != "" {
		o.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", p.Socket)
		}}
	}
	if p.CA != nil {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(p.CA)
		o.TLS = &tls.Config{RootCAs: pool}
	}
	if p.Password != "" {
		o.Credentials = func(context.Context, string) (image.Credential, error) {
			return image.Credential{Username: "me", Password: p.Password}, nil
		}
	}
	return o
}

// command is a process that pulls.
func (p puller) command(t *testing.T) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), pullerEnv+"="+string(text))
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
		p := puller{Ref: reg.ref(), Dir: dir, Times: 1}.command(t)
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
	if out, err := (puller{Ref: reg.ref(), Dir: dir, Times: 1}).command(t).CombinedOutput(); err != nil {
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
