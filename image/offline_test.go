package image_test

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ggcrregistry "github.com/google/go-containerregistry/pkg/registry"

	"hpcimg/image"
	"hpcimg/image/cache"
	"hpcimg/image/registry"
)

// TestOffline opens what has been opened before, with nobody to ask.
func TestOffline(t *testing.T) {
	var requests atomic.Int64
	inner := ggcrregistry.New()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		inner.ServeHTTP(w, r)
	}))
	host := strings.TrimPrefix(s.URL, "http://")
	img, ref := sample(t), "docker://"+host+"/tools/gcc:13"
	for _, to := range []string{ref, "docker://" + host + "/tools/gcc:unread"} {
		if _, err := registry.Push(t.Context(), img, to, nil); err != nil {
			t.Fatal(err)
		}
	}
	c, err := cache.Open(filepath.Join(t.TempDir(), "cache"), nil)
	if err != nil {
		t.Fatal(err)
	}
	opts := func(offline bool) *image.Options {
		return &image.Options{Cache: c, Documents: c, Offline: offline, Registry: image.RegistryOptions{RetryBudget: -1}}
	}
	if _, err := image.Open(t.Context(), ref, opts(true)); !errors.Is(err, image.ErrOffline) || !errors.Is(err, fs.ErrNotExist) || requests.Load() == 0 && err == nil {
		t.Errorf("before: %v", err)
	}
	begin := time.Now().Add(-time.Second)
	warm, err := image.Open(t.Context(), ref, opts(false))
	if err != nil {
		t.Fatal(err)
	}
	if !warm.Remembered().IsZero() {
		t.Errorf("just asked, and remembered of %s", warm.Remembered())
	}
	first := warm.Layers()[0]
	_ = readLayer(t, first)

	// By digest, a warm cache has nothing to ask.
	requests.Store(0)
	pinned := "docker://" + host + "/tools/gcc@" + img.Descriptor().Digest.String()
	if _, err := image.Open(t.Context(), pinned, opts(false)); err != nil || requests.Load() != 0 {
		t.Errorf("by digest: %v, %d requests", err, requests.Load())
	}
	s.Close()
	if _, err := image.Open(t.Context(), pinned, opts(false)); err != nil {
		t.Errorf("by digest, with no registry: %v", err)
	}
	if _, err := image.Open(t.Context(), ref, opts(false)); err == nil || errors.Is(err, image.ErrOffline) {
		t.Errorf("by tag, with no registry: %v", err)
	}
	cold, err := image.Open(t.Context(), ref, opts(true))
	if err != nil {
		t.Fatal(err)
	}
	if cold.Descriptor().Digest != img.Descriptor().Digest || string(cold.RawConfig()) != string(img.RawConfig()) {
		t.Error("another image")
	}
	if when := cold.Remembered(); when.Before(begin.Truncate(time.Second)) || when.After(time.Now()) {
		t.Errorf("remembered of %s", when)
	}
	if string(readLayer(t, cold.Layers()[0])) != string(readLayer(t, img.Layers()[0])) {
		t.Error("another layer")
	}
	rc, err := cold.Layers()[1].Open(t.Context())
	if err == nil {
		_, err = io.Copy(io.Discard, rc)
		rc.Close()
	}
	if !errors.Is(err, image.ErrOffline) {
		t.Errorf("a layer that has not been read: %v", err)
	}
	a, err := image.OpenArtifact(t.Context(), ref, opts(true))
	if err != nil || a.Remembered().IsZero() {
		t.Errorf("as an artifact: %v", err)
	}
	for _, other := range []string{"docker://" + host + "/tools/gcc:unread", "docker://" + host + "/other:13", "docker://example.org/tools/gcc:13"} {
		if _, err := image.Open(t.Context(), other, opts(true)); !errors.Is(err, image.ErrOffline) {
			t.Errorf("%s: %v", other, err)
		}
	}
	if _, err := image.Open(t.Context(), ref, &image.Options{Offline: true}); !errors.Is(err, image.ErrOffline) {
		t.Errorf("without a cache: %v", err)
	}
}
