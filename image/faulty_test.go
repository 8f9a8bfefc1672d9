package image_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"hpcimg/image"
)

const faultySize = 3<<20 + 12345

// faultyBlob is the layer that the faulty registry gives.
var faultyBlob = sync.OnceValue(func() []byte {
	b := make([]byte, faultySize)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
})

// faultyImage is the image that it is the layer of.
var faultyImage = sync.OnceValues(func() (*image.Image, error) {
	return image.Build(image.Config{}, image.LayerInput{Tar: faultyBlob(), Compression: image.CompressionNone})
})

// faulty is a registry that wants bearer tokens and has one image of one layer. How a request for the layer is answered is up to a
// script.
type faulty struct {
	t      *testing.T
	script func(f *faulty, n int, w http.ResponseWriter, r *http.Request)
	server *httptest.Server
	other  *httptest.Server // a host that must never see a credential
	image  *image.Image
	layer  string // digest

	requests atomic.Int32 // for the layer
	tokens   atomic.Int32
	refuse   atomic.Int32 // connections to refuse
	received atomic.Int64 // bytes that the client read
	open     atomic.Int32 // connections of the client

	mu       sync.Mutex
	token    string
	onToken  func(n int32, w http.ResponseWriter) bool // true if it has answered
	onOther  http.HandlerFunc
	etag     string
	starts   []int64 // of the ranges asked for; -1 for none
	ifRanges []string
}

func newFaulty(t *testing.T, script func(*faulty, int, http.ResponseWriter, *http.Request)) *faulty {
	t.Helper()
	f := &faulty{t: t, script: script, etag: `"v1"`}
	img, err := faultyImage()
	if err != nil {
		t.Fatal(err)
	}
	f.image, f.layer = img, img.Layers()[0].Descriptor.Digest.String()
	start := func(h http.HandlerFunc) *httptest.Server {
		s := httptest.NewUnstartedServer(h)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.Start()
		t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
		return s
	}
	f.server = start(f.serve)
	f.other = start(f.serveOther)
	return f
}

func (f *faulty) host() string { return strings.TrimPrefix(f.server.URL, "http://") }

// options are those of a client in a hurry.
func (f *faulty) options() (*image.Options, *http.Transport) {
	transport := &http.Transport{DialContext: f.dial, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10}
	return &image.Options{Registry: image.RegistryOptions{
		Transport: transport, IdleTimeout: 5 * time.Second, MinRate: 2000, RetryBudget: 1500 * time.Millisecond, Attempts: 4,
		Credentials: func(_ context.Context, host string) (image.Credential, error) {
			if host != f.host() {
				f.t.Errorf("credentials for %s", host)
			}
			return image.Credential{Username: "me", Password: "SECRET"}, nil
		},
	}}, transport
}

// countedConn counts what is read from it.
type countedConn struct {
	net.Conn
	f    *faulty
	once sync.Once
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.f.received.Add(int64(n))
	return n, err
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.f.open.Add(-1) })
	return c.Conn.Close()
}

func (f *faulty) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if f.refuse.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	f.open.Add(1)
	return &countedConn{Conn: conn, f: f}, nil
}

func (f *faulty) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	token, onToken := f.token, f.onToken
	f.mu.Unlock()
	switch {
	case r.URL.Path == "/token":
		n := f.tokens.Add(1)
		if onToken != nil && onToken(n, w) {
			return
		}
		if user, password, _ := r.BasicAuth(); user != "me" || password != "SECRET" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		f.mu.Lock()
		f.token = fmt.Sprintf("SECRET-%d", n)
		fmt.Fprintf(w, `{"token":%q}`, f.token)
		f.mu.Unlock()
	case token == "" || r.Header.Get("Authorization") != "Bearer "+token:
		f.challenge(w, f.server.URL+"/token")
	case strings.HasSuffix(r.URL.Path, "/blobs/"+f.layer) || strings.HasPrefix(r.URL.Path, "/again"):
		f.note(r)
		f.script(f, int(f.requests.Add(1)), w, r)
	case strings.Contains(r.URL.Path, "/manifests/"):
		w.Header().Set("Content-Type", typeManifest)
		_, _ = w.Write(f.image.RawManifest())
	case strings.Contains(r.URL.Path, "/blobs/"):
		_, _ = w.Write(f.image.RawConfig())
	}
}

func (f *faulty) challenge(w http.ResponseWriter, realm string) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="test",scope="repository:a:pull"`)
	w.WriteHeader(http.StatusUnauthorized)
}

// serveOther is the other host: what it serves is harmless, what it is told is looked at.
func (f *faulty) serveOther(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	for name, values := range r.Header {
		if told := strings.Join(values, " "); name == "Cookie" || strings.Contains(told, "SECRET") || strings.Contains(told, "Basic ") {
			f.t.Errorf("%s %s with %s: %s", r.Method, r.URL, name, told)
		}
	}
	if strings.Contains(string(body)+r.URL.RawQuery, "SECRET") {
		f.t.Errorf("%s %s with %s", r.Method, r.URL, body)
	}
	f.mu.Lock()
	h := f.onOther
	f.mu.Unlock()
	f.note(r)
	if h == nil {
		f.good(w, r)
		return
	}
	h(w, r)
}

func (f *faulty) note(r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.starts = append(f.starts, rangeStart(r))
	f.ifRanges = append(f.ifRanges, r.Header.Get("If-Range"))
}

// rangeStart is the first byte that a request asks for, -1 without a range.
func rangeStart(r *http.Request) int64 {
	s, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	if !ok {
		return -1
	}
	n, err := strconv.ParseInt(strings.TrimSuffix(s, "-"), 10, 64)
	if err != nil {
		return -2
	}
	return n
}

// expire makes the token of the client useless.
func (f *faulty) expire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.token = "SECRET-expired"
}

// good is the right answer.
func (f *faulty) good(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	w.Header().Set("ETag", f.etag)
	f.mu.Unlock()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(faultyBlob()))
}

// begin is the right answer for a while: n bytes of it.
func (f *faulty) begin(w http.ResponseWriter, r *http.Request, n int) {
	from := max(rangeStart(r), 0)
	f.mu.Lock()
	w.Header().Set("ETag", f.etag)
	f.mu.Unlock()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(faultySize-from, 10))
	if rangeStart(r) >= 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, faultySize-1, faultySize))
		w.WriteHeader(http.StatusPartialContent)
	}
	_, _ = w.Write(faultyBlob()[from:min(from+int64(n), faultySize)])
	w.(http.Flusher).Flush()
}

// cut ends the answer after n bytes.
func (f *faulty) cut(w http.ResponseWriter, r *http.Request, n int) {
	f.begin(w, r, n)
	panic(http.ErrAbortHandler)
}

// raw answers with these bytes, closes the connection, and resets it if hard.
func (f *faulty) raw(w http.ResponseWriter, answer string, hard bool) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		f.t.Error(err)
		return
	}
	_, _ = io.WriteString(conn, answer)
	if hard {
		_ = conn.(*net.TCPConn).SetLinger(0)
	}
	_ = conn.Close()
}

// head is the beginning of a raw answer.
func head(status, more string) string {
	return "HTTP/1.1 " + status + "\r\nContent-Type: application/octet-stream\r\n" + more + "\r\n"
}
