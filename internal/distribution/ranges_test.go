package distribution_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hpcimg/internal/distribution"
)

// TestRanges: a large blob comes by several requests at a time where the registry knows ranges, and comes all the same where it does not, or
// stops to.
func TestRanges(t *testing.T) {
	const size = 66<<20 + 5
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{8}).Read(data)
	sum := sha256.Sum256(data)
	d := digest.NewDigestFromBytes(digest.SHA256, sum[:])
	for _, tc := range []struct {
		name     string
		off      int64
		answer   func(n int, w http.ResponseWriter, r *http.Request) bool // true if it has answered
		requests int                                                      // at least
		twice    int64
	}{
		{"ranges", 0, nil, 9, 0},
		{"from the second MiB on", 1 << 20, nil, 9, 0},
		{"too little is left", 40 << 20, nil, 1, 0},
		{"no ranges", 0, func(_ int, _ http.ResponseWriter, r *http.Request) bool { r.Header.Del("Range"); return false }, 1, 0},
		{"no ranges after the third request", 0, func(n int, _ http.ResponseWriter, r *http.Request) bool {
			if n > 3 {
				r.Header.Del("Range")
			}
			return false
		}, 4, 6 * size},
		{"a range is gone", 0, func(n int, w http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.Header.Get("Range"), "bytes=16777216-2") {
				w.WriteHeader(http.StatusGone)
				return true
			}
			return false
		}, 3, 4 * 8 << 20},
		{"cut in the middle of each", 0, func(n int, w http.ResponseWriter, r *http.Request) bool {
			var from, to int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil || n%2 == 0 {
				return false
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, size))
			w.Header().Set("Content-Length", fmt.Sprint(to+1-from))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data[from : from+(to+1-from)/2])
			panic(http.ErrAbortHandler)
		}, 12, 0},
		{"fewer bytes than asked for", 0, func(_ int, w http.ResponseWriter, r *http.Request) bool {
			var from, to int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err == nil && to-from > 3<<20 {
				r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, from+3<<20))
			}
			return false
		}, 20, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var (
				mu               sync.Mutex
				requests, active int
				most             int
				given            int64
			)
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v2/" {
					return
				}
				mu.Lock()
				requests++
				active++
				most = max(most, active)
				n := requests
				mu.Unlock()
				defer func() {
					mu.Lock()
					active--
					mu.Unlock()
				}()
				time.Sleep(5 * time.Millisecond)
				counted := &countedWriter{ResponseWriter: w, add: func(n int) {
					mu.Lock()
					given += int64(n)
					mu.Unlock()
				}}
				if tc.answer == nil || !tc.answer(n, counted, r) {
					http.ServeContent(counted, r, "", time.Time{}, bytes.NewReader(data))
				}
			}))
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			s.Start()
			t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
			c := distribution.New(&distribution.Config{Ranges: 4, RetryBudget: 2 * time.Second})
			repo, err := c.Repository(strings.TrimPrefix(s.URL, "http://"), "a/b", distribution.Pull)
			if err != nil {
				t.Fatal(err)
			}
			rc, err := repo.BlobFrom(t.Context(), d, size, tc.off)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(rc)
			if err != nil || !bytes.Equal(got, data[tc.off:]) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if err := rc.Close(); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if requests < tc.requests || tc.requests >= 9 && most < 2 || most > 5 {
				t.Errorf("%d requests, %d at a time", requests, most)
			}
			if twice := given - (size - tc.off); twice > tc.twice {
				t.Errorf("%d bytes were given twice", twice)
			}
		})
	}
}

type countedWriter struct {
	http.ResponseWriter
	add func(int)
}

func (w *countedWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.add(n)
	return n, err
}
