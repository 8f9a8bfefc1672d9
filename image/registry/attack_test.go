package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"hpcimg/image"
	"hpcimg/image/registry"
)

func printable(err error) bool {
	return !strings.ContainsFunc(err.Error(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) })
}

// between puts a hostile something between a client and the registry in this process. It has answered if it returns true.
func between(t *testing.T, inner string, f func(w http.ResponseWriter, r *http.Request) bool) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" && f(w, r) {
			return
		}
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host, out.RequestURI = "http", inner, ""
		res, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer res.Body.Close()
		maps.Copy(w.Header(), res.Header)
		w.WriteHeader(res.StatusCode)
		_, _ = io.Copy(w, res.Body)
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return strings.TrimPrefix(s.URL, "http://")
}

// TestPushDigestClaims: what a registry says that it has stored is compared, and in no error as it is.
func TestPushDigestClaims(t *testing.T) {
	for _, claim := range []string{
		"\x1b]0;owned", "nonsense", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:" + strings.Repeat("0", 64), "sha256:" + strings.Repeat("x", 100_000),
	} {
		host := between(t, newServer(t).host, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.Header()["Docker-Content-Digest"] = []string{claim}
			w.WriteHeader(http.StatusCreated)
			return true
		})
		_, err := registry.Push(t.Context(), build(t, "a", []byte("layer")), "docker://"+host+"/a:v1", &registry.PushOptions{
			Registry: image.RegistryOptions{RetryBudget: -1},
		})
		if err == nil || len(err.Error()) > 2000 || !printable(err) {
			t.Errorf("%.40q: %.200q", claim, fmt.Sprint(err))
		}
	}
}

// TestPushIsRefusedEarly: a registry that answers before it has read the blob, as they do when there is no room. No progress is
// reported afterwards.
func TestPushIsRefusedEarly(t *testing.T) {
	host := between(t, newServer(t).host, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/") {
			w.WriteHeader(http.StatusInsufficientStorage)
			return true
		}
		return false
	})
	img := build(t, "a", bytes.Repeat([]byte("x"), 32<<20), bytes.Repeat([]byte("y"), 32<<20))
	var ended atomic.Bool
	last := map[string]int64{}
	_, err := registry.Push(t.Context(), img, "docker://"+host+"/a:v1", &registry.PushOptions{Progress: func(e registry.Event) {
		last[e.Descriptor.Digest.String()] = e.Done
		if ended.Load() {
			t.Error("progress after the end")
		}
	}})
	ended.Store(true)
	if te, ok := errors.AsType[*image.TransportError](err); !ok || te.Status != http.StatusInsufficientStorage {
		t.Errorf("got %v", err)
	}
	clear(last) // a race with a late callback shows here
	time.Sleep(50 * time.Millisecond)
}

// TestPushSurvives: blobs are sent again after an overload, a broken connection and a redirect.
func TestPushSurvives(t *testing.T) {
	inner := program(t, false) // which remembers what it got of an upload that broke
	for name, bad := range map[string]func(w http.ResponseWriter, r *http.Request){
		"503": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"429 after the body": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusTooManyRequests)
		},
		"cut in the middle": func(_ http.ResponseWriter, r *http.Request) {
			out := r.Clone(r.Context())
			out.URL.Scheme, out.URL.Host, out.RequestURI = "http", inner, ""
			out.Body = io.NopCloser(io.LimitReader(r.Body, 1<<20))
			if _, err := http.DefaultTransport.RoundTrip(out); err == nil {
				t.Error("the registry took a part for the whole")
			}
			panic(http.ErrAbortHandler)
		},
		"upload forgotten": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.RequestURI(), http.StatusTemporaryRedirect)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int32
			host := between(t, inner, func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/") && n.Add(1) == 1 {
					bad(w, r)
					return true
				}
				return false
			})
			img := build(t, name, bytes.Repeat([]byte(name), 1<<20))
			ref := "docker://" + host + "/a:v1"
			done := map[string]int64{}
			if _, err := registry.Push(t.Context(), img, ref, &registry.PushOptions{Uploads: 1, Progress: func(e registry.Event) {
				if key := e.Descriptor.Digest.String(); e.Done < done[key] {
					t.Errorf("progress from %d to %d", done[key], e.Done)
				} else {
					done[key] = e.Done
				}
			}}); err != nil {
				t.Fatal(err)
			}
			got, err := image.Open(t.Context(), ref, nil)
			if err != nil {
				t.Fatal(err)
			}
			same(t, got, img)
		})
	}
}

// TestResolveWithoutDigest: some registries do not say the digest in answer to HEAD, or do not know HEAD.
func TestResolveWithoutDigest(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter){
		"no digest": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		},
		"not allowed": func(w http.ResponseWriter) { w.WriteHeader(http.StatusMethodNotAllowed) },
	} {
		t.Run(name, func(t *testing.T) {
			host := between(t, newServer(t).host, func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/manifests/") {
					answer(w)
					return true
				}
				return false
			})
			img := build(t, "a", []byte("layer"))
			ref := "docker://" + host + "/a:v1"
			if _, err := registry.Push(t.Context(), img, ref, nil); err != nil {
				t.Fatal(err)
			}
			d, err := registry.NewClient(nil).Resolve(t.Context(), ref)
			if want := img.Descriptor(); err != nil || d.Digest != want.Digest || d.Size != want.Size {
				t.Errorf("%+v, %v", d, err)
			}
		})
	}
}

// TestPushToOtherTransport: a layered image under an oras:// reference would be read as a SIF file.
func TestPushToOtherTransport(t *testing.T) {
	s := newServer(t)
	_, err := registry.Push(t.Context(), build(t, "a"), "oras://"+s.host+"/a:v1", nil)
	if !errors.Is(err, image.ErrReference) || s.uploads.Load() != 0 {
		t.Errorf("got %v", err)
	}
}

// helper puts a credential helper on PATH.
func helper(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	path := filepath.Join(dir, "config.json")
	write(t, path, `{"credsStore":"test"}`)
	return path
}

// TestHelperIsCancelled: a helper that waits for a person ends with the context, and the error says why.
func TestHelperIsCancelled(t *testing.T) {
	path := helper(t, "sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	started := time.Now()
	_, err := registry.DockerConfig(path)(ctx, "h.example")
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(started) > 10*time.Second {
		t.Errorf("got %v after %s", err, time.Since(started))
	}
}

// TestHelperIsMissing: the error names the program to install.
func TestHelperIsMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, `{"credHelpers":{"h.example":"missing-one"}}`)
	_, err := registry.DockerConfig(path)(t.Context(), "h.example")
	if err == nil || !strings.Contains(err.Error(), "docker-credential-missing-one") {
		t.Errorf("got %v", err)
	}
}

// TestConfigIsPipe: a configuration that is a pipe is not waited for.
func TestConfigIsNoFile(t *testing.T) {
	for _, path := range []string{t.TempDir(), "/dev/zero"} {
		if _, err := registry.DockerConfig(path)(t.Context(), "h.example"); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
