package distribution_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hpcimg/internal/distribution"
)

// depot is a registry that takes blobs, in one request or in chunks, and can be made to misbehave.
type depot struct {
	*httptest.Server
	t *testing.T

	maxBody  int64 // of a request; 0 is no limit
	minChunk string
	keep     bool                                                               // what a broken request has brought
	status   bool                                                               // GET tells how far an upload is
	fault    func(n int, d *depot, w http.ResponseWriter, r *http.Request) bool // before the nth PATCH or PUT; true if it has answered
	cut      map[int]int64                                                      // PATCH or PUT → bytes after which its connection breaks

	mu       sync.Mutex
	uploads  map[string][]byte
	blobs    map[digest.Digest][]byte
	received int64
	requests int // PATCH and PUT
	patches  int
	posts    int
	mounts   []string
}

func newDepot(t *testing.T) *depot {
	t.Helper()
	d := &depot{t: t, uploads: map[string][]byte{}, blobs: map[digest.Digest][]byte{}, keep: true, status: true}
	d.Server = httptest.NewUnstartedServer(d)
	d.Config.ErrorLog = log.New(io.Discard, "", 0)
	d.Start()
	t.Cleanup(func() { d.CloseClientConnections(); d.Close() })
	return d
}

func (d *depot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	switch {
	case r.URL.Path == "/v2/":
	case r.Method == http.MethodPost:
		d.post(w, r)
	case r.Method == http.MethodGet:
		d.tell(w, id, http.StatusNoContent)
	case r.Method == http.MethodPatch, r.Method == http.MethodPut:
		d.take(w, r, id)
	}
}

func (d *depot) post(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.posts++
	if m := r.URL.Query().Get("mount"); m != "" {
		d.mounts = append(d.mounts, r.URL.Query().Get("from"))
		if r.URL.Query().Get("from") == "forbidden" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		if _, ok := d.blobs[digest.Digest(m)]; ok {
			w.WriteHeader(http.StatusCreated)
			return
		}
	}
	id := fmt.Sprint("u", len(d.uploads))
	d.uploads[id] = nil
	if d.minChunk != "" {
		w.Header().Set("OCI-Chunk-Min-Length", d.minChunk)
	}
	w.Header().Set("Location", "/v2/a/b/blobs/uploads/"+id+"?state=x%20y")
	w.WriteHeader(http.StatusAccepted)
}

// tell says how far an upload is.
func (d *depot) tell(w http.ResponseWriter, id string, status int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	data, ok := d.uploads[id]
	if !ok || !d.status && status == http.StatusNoContent {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Location", "/v2/a/b/blobs/uploads/"+id+"?state=x%20y")
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(len(data)-1, 0)))
	w.WriteHeader(status)
}

func (d *depot) take(w http.ResponseWriter, r *http.Request, id string) {
	d.mu.Lock()
	d.requests++
	n := d.requests
	if r.Method == http.MethodPatch {
		d.patches++
	}
	d.mu.Unlock()
	if d.fault != nil && d.fault(n, d, w, r) {
		return
	}
	d.mu.Lock()
	data, ok := d.uploads[id]
	d.mu.Unlock()
	from, _, _ := strings.Cut(r.Header.Get("Content-Range"), "-")
	switch {
	case !ok:
		w.WriteHeader(http.StatusNotFound)
		return
	case r.Method == http.MethodPatch && from != strconv.Itoa(len(data)):
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	case d.maxBody > 0 && r.ContentLength > d.maxBody:
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	body := io.Reader(r.Body)
	limit, cut := d.cut[n]
	if cut {
		body = io.LimitReader(r.Body, limit)
	}
	more, err := io.ReadAll(body)
	d.mu.Lock()
	d.received += int64(len(more))
	if err == nil && (!cut || d.keep) {
		data = append(data, more...)
		d.uploads[id] = data
	}
	d.mu.Unlock()
	switch {
	case cut || err != nil:
		panic(http.ErrAbortHandler)
	case r.Method == http.MethodPatch:
		d.tell(w, id, http.StatusAccepted)
		return
	}
	want := digest.Digest(r.URL.Query().Get("digest"))
	if digest.FromBytes(data) != want || r.URL.Query().Get("state") != "x y" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	d.mu.Lock()
	d.blobs[want] = data
	delete(d.uploads, id)
	d.mu.Unlock()
	w.WriteHeader(http.StatusCreated)
}

func (d *depot) push(data []byte, opts *distribution.UploadOptions) (bool, error) {
	c := distribution.New(&distribution.Config{RetryBudget: time.Second, Attempts: 4})
	repo, err := c.Repository(strings.TrimPrefix(d.URL, "http://"), "a/b", distribution.PullPush)
	if err != nil {
		d.t.Fatal(err)
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	return repo.PushBlob(d.t.Context(), digest.FromBytes(data), int64(len(data)), open, opts)
}

// TestUploads: blobs arrive whatever goes wrong on the way, and little of them is sent twice where the registry can say what it has.
func TestUploads(t *testing.T) {
	const size = 5<<20 + 77
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
	chunked := &distribution.UploadOptions{ChunkSize: 1 << 20}
	answer := func(which int, status int) func(int, *depot, http.ResponseWriter, *http.Request) bool {
		return func(n int, _ *depot, w http.ResponseWriter, r *http.Request) bool {
			if n != which {
				return false
			}
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(status)
			return true
		}
	}
	for _, tc := range []struct {
		name    string
		set     func(d *depot)
		opts    *distribution.UploadOptions
		patches int   // at least
		twice   int64 // bytes, at most
		posts   int
	}{
		{"one request", func(*depot) {}, nil, 0, 0, 1},
		{"chunks", func(*depot) {}, chunked, 6, 0, 1},
		{"larger chunks wanted", func(d *depot) { d.minChunk = "2097152" }, chunked, 3, 0, 1},
		{"absurd chunks wanted", func(d *depot) { d.minChunk = "9223372036854775807" }, chunked, 6, 0, 1},
		{"no number of chunks", func(d *depot) { d.minChunk = "many" }, chunked, 6, 0, 1},
		{"chunks wanted, one request asked", func(d *depot) { d.minChunk = "2097152" }, nil, 0, 0, 1},
		{"one request is cut", func(d *depot) { d.cut = map[int]int64{1: 3<<20 + 5} }, nil, 1, 0, 1},
		{"cut, nothing kept", func(d *depot) { d.cut, d.keep = map[int]int64{1: 3<<20 + 5}, false }, nil, 1, 3<<20 + 5, 1},
		{"cut, no telling", func(d *depot) { d.cut, d.status = map[int]int64{1: 3<<20 + 5}, false }, nil, 0, 3<<20 + 5, 2},
		{"chunk is cut", func(d *depot) { d.cut = map[int]int64{3: 1000} }, chunked, 6, 0, 1},
		{"chunk is cut, not kept", func(d *depot) { d.cut, d.keep = map[int]int64{3: 1000}, false }, chunked, 7, 1000, 1},
		{"two chunks are cut", func(d *depot) { d.cut = map[int]int64{2: 1000, 5: 1 << 19} }, chunked, 7, 0, 1},
		{"chunk is cut, no telling", func(d *depot) { d.cut, d.status = map[int]int64{3: 1000}, false }, chunked, 9, 2<<20 + 1000, 2},
		{"503 to a chunk", func(d *depot) { d.fault = answer(2, 503) }, chunked, 7, 0, 1},
		{"416 to a chunk", func(d *depot) { d.fault = answer(2, 416) }, chunked, 7, 0, 1},
		{"404 to a chunk", func(d *depot) { d.fault = answer(3, 404) }, chunked, 9, 2 << 20, 2},
		{"503 to the end", func(d *depot) { d.fault = answer(7, 503) }, chunked, 6, 0, 1},
		{"413", func(d *depot) { d.maxBody = 17 << 20; d.fault = answer(1, 413) }, nil, 1, 0, 2},
		{"upload is forgotten", func(d *depot) {
			d.fault = func(n int, d *depot, _ http.ResponseWriter, _ *http.Request) bool {
				if n == 4 {
					d.mu.Lock()
					clear(d.uploads)
					d.mu.Unlock()
				}
				return false
			}
		}, chunked, 9, 6 << 20, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := newDepot(t)
			tc.set(d)
			if mounted, err := d.push(data, tc.opts); err != nil || mounted {
				t.Fatalf("%v, %v", mounted, err)
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			if !bytes.Equal(d.blobs[digest.FromBytes(data)], data) {
				t.Error("the blob is not there")
			}
			if d.patches < tc.patches || tc.patches == 0 && d.patches > 0 {
				t.Errorf("%d chunks, want %d", d.patches, tc.patches)
			}
			if twice := d.received - size; twice > tc.twice {
				t.Errorf("%d bytes were sent twice, want %d at most", twice, tc.twice)
			}
			if d.posts != tc.posts {
				t.Errorf("begun %d times, want %d", d.posts, tc.posts)
			}
		})
	}
}

// TestUploadsThatEnd: a registry that makes no sense ends an upload with an error, soon.
func TestUploadsThatEnd(t *testing.T) {
	data := make([]byte, 3<<20)
	always := func(status int, header ...string) func(int, *depot, http.ResponseWriter, *http.Request) bool {
		return func(_ int, _ *depot, w http.ResponseWriter, r *http.Request) bool {
			_, _ = io.Copy(io.Discard, r.Body)
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			return true
		}
	}
	for _, tc := range []struct {
		name  string
		fault func(int, *depot, http.ResponseWriter, *http.Request) bool
	}{
		{"403", always(403)},
		{"404", always(404)},
		{"413", always(413)},
		{"416", always(416)},
		{"500", always(500)},
		{"no location", always(202)},
		{"location that is none", always(202, "Location", "http://[::1")},
		{"location elsewhere, over a file", always(202, "Location", "file:///etc/passwd")},
		{"nothing is kept", always(202, "Location", "/v2/a/b/blobs/uploads/u0", "Range", "0-0")},
		{"more is there than was sent", always(202, "Location", "/v2/a/b/blobs/uploads/u0", "Range", "0-999999999")},
		{"half is kept", always(202, "Location", "/v2/a/b/blobs/uploads/u0", "Range", "0-9")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := newDepot(t)
			d.fault = tc.fault
			started := time.Now()
			_, err := d.push(data, &distribution.UploadOptions{ChunkSize: 1 << 20})
			if _, ok := errors.AsType[*distribution.Error](err); !ok {
				t.Errorf("got %v", err)
			}
			if took := time.Since(started); took > 10*time.Second || d.requests > 30 {
				t.Errorf("%d requests in %s", d.requests, took)
			}
		})
	}
}

// TestMount: what another repository has is not sent.
func TestMount(t *testing.T) {
	d := newDepot(t)
	data := []byte("a blob")
	for _, tc := range []struct {
		from    string
		mounted bool
	}{{"other/repo", false}, {"other/repo", true}, {"forbidden", false}} {
		mounted, err := d.push(data, &distribution.UploadOptions{MountFrom: tc.from})
		if err != nil || mounted != tc.mounted {
			t.Errorf("from %s: %v, %v", tc.from, mounted, err)
		}
	}
	if d.requests != 2 || len(d.mounts) != 3 {
		t.Errorf("%d uploads, asked for mounts from %v", d.requests, d.mounts)
	}
}

// TestUploadOfWrongContent: content that turns out wrong at its end is never completed.
func TestUploadOfWrongContent(t *testing.T) {
	d := newDepot(t)
	c := distribution.New(&distribution.Config{RetryBudget: -1})
	repo, err := c.Repository(strings.TrimPrefix(d.URL, "http://"), "a/b", distribution.PullPush)
	if err != nil {
		t.Fatal(err)
	}
	wrong := errors.New("wrong digest")
	open := func() (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(make([]byte, 3000)), failing{wrong})), nil
	}
	_, err = repo.PushBlob(t.Context(), digest.FromString("x"), 3000, open, &distribution.UploadOptions{ChunkSize: 1000})
	if !errors.Is(err, wrong) || len(d.blobs) > 0 {
		t.Errorf("%v, %d blobs", err, len(d.blobs))
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
