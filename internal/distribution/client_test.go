package distribution_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"hpcimg/internal/distribution"
)

const blobDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// serve starts a registry whose every request but the ping goes to h.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		h(w, r)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func repository(t *testing.T, host string, config *distribution.Config) *distribution.Repository {
	t.Helper()
	r, err := distribution.New(config).Repository(host, "a/b", distribution.Pull)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func readBlob(ctx context.Context, r *distribution.Repository) (string, error) {
	rc, err := r.Blob(ctx, blobDigest, -1)
	if err != nil {
		return "", err
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	return string(b), err
}

func TestRetry(t *testing.T) {
	for _, tc := range []struct {
		name     string
		statuses []int // answers before the good one
		header   string
		budget   time.Duration
		status   int // of the error; 0 for success
		requests int32
	}{
		{"at once", nil, "", 0, 0, 1},
		{"503 then good", []int{503}, "", 0, 0, 2},
		{"429, 500, 502, 504 then good", []int{429, 500, 502, 504}, "", 0, 0, 5},
		{"Retry-After within budget", []int{429}, "1", 0, 0, 2},
		{"Retry-After beyond budget", []int{429}, "3600", 0, 429, 1},
		{"no budget", []int{503}, "", -1, 503, 1},
		{"404 is final", []int{404}, "", 0, 404, 1},
		{"403 is final", []int{403}, "", 0, 403, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int32
			host := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if i := int(n.Add(1)); i <= len(tc.statuses) {
					if tc.header != "" {
						w.Header().Set("Retry-After", tc.header)
					}
					w.WriteHeader(tc.statuses[i-1])
					return
				}
				_, _ = io.WriteString(w, "blob")
			})
			started := time.Now()
			got, err := readBlob(t.Context(), repository(t, host, &distribution.Config{RetryBudget: tc.budget}))
			if n.Load() != tc.requests {
				t.Errorf("%d requests, want %d", n.Load(), tc.requests)
			}
			if tc.header == "1" && time.Since(started) < time.Second {
				t.Error("Retry-After was not waited for")
			}
			if tc.status == 0 {
				if err != nil || got != "blob" {
					t.Errorf("got %q, %v", got, err)
				}
				return
			}
			de, ok := errors.AsType[*distribution.Error](err)
			if !ok || de.Status != tc.status || de.Host != host {
				t.Fatalf("got %v, want status %d from %s", err, tc.status, host)
			}
			if tc.header == "3600" && de.RetryAfter != time.Hour {
				t.Errorf("RetryAfter = %s", de.RetryAfter)
			}
		})
	}
}

func TestRetryEndsWithContext(t *testing.T) {
	host := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	started := time.Now()
	_, err := readBlob(ctx, repository(t, host, nil))
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(started) > 5*time.Second {
		t.Errorf("got %v after %s, want DeadlineExceeded", err, time.Since(started))
	}
}

func TestStall(t *testing.T) {
	for _, tc := range []struct {
		name  string
		serve http.HandlerFunc
	}{
		{"before the answer", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"in the body", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "some")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			host := serve(t, tc.serve)
			r := repository(t, host, &distribution.Config{IdleTimeout: 300 * time.Millisecond, RetryBudget: -1})
			_, err := readBlob(t.Context(), r)
			if _, ok := errors.AsType[*distribution.Error](err); !ok || !errors.Is(err, distribution.ErrStalled) {
				t.Errorf("got %v, want ErrStalled in *Error", err)
			}
		})
	}
}

// TestSlowIsNotStalled: neither a peer that sends a byte now and then, nor a consumer that takes its time.
func TestSlowIsNotStalled(t *testing.T) {
	host := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for range 8 {
			_, _ = io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond)
		}
	})
	rc, err := repository(t, host, &distribution.Config{IdleTimeout: 400 * time.Millisecond}).Blob(t.Context(), blobDigest, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	time.Sleep(600 * time.Millisecond)
	if b, err := io.ReadAll(rc); len(b) != 8 || err != nil {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
}

func TestBrokenBody(t *testing.T) {
	host := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "some")
	})
	got, err := readBlob(t.Context(), repository(t, host, &distribution.Config{RetryBudget: -1}))
	if _, ok := errors.AsType[*distribution.Error](err); !ok || !errors.Is(err, io.ErrUnexpectedEOF) || got != "some" {
		t.Errorf("got %q, %v; want ErrUnexpectedEOF in *Error", got, err)
	}
}

func TestRefusedConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	_ = l.Close()
	started := time.Now()
	_, err = readBlob(t.Context(), repository(t, host, nil))
	if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), host) {
		t.Errorf("got %v, want ECONNREFUSED that names %s", err, host)
	}
	if time.Since(started) > 5*time.Second {
		t.Errorf("took %s", time.Since(started))
	}
}

// guarded makes requests of the host "registry.test" end at a local server, so that it is no loopback host to the client.
func guarded(t *testing.T, plainHTTP bool, h http.HandlerFunc) *distribution.Repository {
	t.Helper()
	addr := serve(t, h)
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return repository(t, "registry.test", &distribution.Config{Transport: transport, PlainHTTP: plainHTTP})
}

func TestPlainHTTP(t *testing.T) {
	blob := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "blob") }
	if got, err := readBlob(t.Context(), guarded(t, true, blob)); got != "blob" || err != nil {
		t.Errorf("allowed: %q, %v", got, err)
	}
	if _, err := readBlob(t.Context(), guarded(t, false, blob)); err == nil {
		t.Error("plain HTTP was spoken without being allowed")
	}
}

// TestLoopbackNames: every way to write this machine may be plain HTTP, with or without a port.
func TestLoopbackNames(t *testing.T) {
	for _, host := range []string{"localhost", "localhost:5000", "127.0.0.2:5000", "[::1]:5000", "x.localhost"} {
		transport := roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Scheme != "http" {
				return nil, errors.New("no TLS here")
			}
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("blob")), Request: r}, nil
		})
		if got, err := readBlob(t.Context(), repository(t, host, &distribution.Config{Transport: transport})); got != "blob" || err != nil {
			t.Errorf("%s: %q, %v", host, got, err)
		}
	}
}

// TestPlainHTTPToPrivateAddress: go-containerregistry takes an RFC 1918 address as a reason for HTTP; we do not.
func TestPlainHTTPToPrivateAddress(t *testing.T) {
	transport := roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Scheme == "http" {
			t.Errorf("asked %s", r.URL)
		}
		return nil, errors.New("no TLS here")
	})
	_, err := readBlob(t.Context(), repository(t, "10.1.2.3:5000", &distribution.Config{Transport: transport}))
	if err == nil {
		t.Error("no error")
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestRedirects(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" {
			t.Errorf("credentials went along: %v", r.Header)
		}
		_, _ = io.WriteString(w, "elsewhere")
	}))
	t.Cleanup(elsewhere.Close)
	to := func(target string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target, http.StatusTemporaryRedirect)
		}
	}
	login := &distribution.Config{Credentials: func(context.Context, string) (distribution.Credential, error) {
		return distribution.Credential{Username: "user", Password: "password"}, nil
	}}

	got, err := readBlob(t.Context(), repository(t, serve(t, to(elsewhere.URL+"/x")), login))
	if got != "elsewhere" || err != nil {
		t.Errorf("from loopback to loopback: %q, %v", got, err)
	}
	if _, err := readBlob(t.Context(), guarded(t, true, to(elsewhere.URL+"/x"))); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("from elsewhere to loopback: %v", err)
	}
	if _, err := readBlob(t.Context(), repository(t, serve(t, to("http://registry.test/x")), nil)); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("from loopback to plain HTTP elsewhere: %v", err)
	}
	if _, err := readBlob(t.Context(), repository(t, serve(t, to("file:///etc/passwd")), nil)); err == nil {
		t.Error("a redirect to a file was followed")
	}
	loop := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) })
	if _, err := readBlob(t.Context(), repository(t, loop, nil)); err == nil || !strings.Contains(err.Error(), "10 redirects") {
		t.Errorf("loop: %v", err)
	}
}

// TestRedirectDowngrade: a registry with TLS may not lead to a place without.
func TestRedirectDowngrade(t *testing.T) {
	var plain atomic.Bool
	other := serve(t, func(http.ResponseWriter, *http.Request) { plain.Store(true) })
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			http.Redirect(w, r, "http://"+other+"/x", http.StatusFound)
		}
	}))
	t.Cleanup(s.Close)
	r := repository(t, strings.TrimPrefix(s.URL, "https://"), &distribution.Config{Transport: s.Client().Transport, PlainHTTP: true})
	if _, err := readBlob(t.Context(), r); err == nil || plain.Load() {
		t.Errorf("got %v, asked over plain HTTP: %t", err, plain.Load())
	}
}

// tokenRegistry wants bearer tokens, which its token server gives to one user, or to everybody if user is empty.
type tokenRegistry struct {
	*httptest.Server
	user string

	inner http.HandlerFunc // default: a blob

	mu     sync.Mutex
	valid  string // the token that is good at the moment
	issued int
	scopes []string
}

func newTokenRegistry(t *testing.T, user string) *tokenRegistry {
	reg := &tokenRegistry{user: user}
	reg.Server = httptest.NewServer(reg)
	t.Cleanup(reg.Close)
	return reg
}

func (reg *tokenRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if r.URL.Path == "/token" {
		user, _, _ := r.BasicAuth()
		if user != reg.user {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		reg.issued++
		reg.valid = fmt.Sprintf("token-%d", reg.issued)
		reg.scopes = append(reg.scopes, r.URL.Query()["scope"]...)
		fmt.Fprintf(w, `{"token":%q}`, reg.valid)
		return
	}
	if reg.valid == "" || r.Header.Get("Authorization") != "Bearer "+reg.valid {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="test",scope="repository:a/b:pull"`, reg.URL+"/token"))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if reg.inner != nil {
		reg.inner(w, r)
		return
	}
	_, _ = io.WriteString(w, "blob")
}

func (reg *tokenRegistry) expire() {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	reg.valid = "something else"
}

func TestTokens(t *testing.T) {
	reg := newTokenRegistry(t, "me")
	host := strings.TrimPrefix(reg.URL, "http://")
	var asked atomic.Int32
	r := repository(t, host, &distribution.Config{Credentials: func(_ context.Context, h string) (distribution.Credential, error) {
		asked.Add(1)
		if h != host {
			t.Errorf("asked for %s", h)
		}
		return distribution.Credential{Username: "me", Password: "x"}, nil
	}})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if got, err := readBlob(t.Context(), r); got != "blob" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if reg.issued != 1 || asked.Load() != 1 || reg.scopes[0] != "repository:a/b:pull" {
		t.Errorf("%d tokens for %v, asked %d times for credentials", reg.issued, reg.scopes, asked.Load())
	}
	reg.expire()
	if got, err := readBlob(t.Context(), r); got != "blob" || err != nil {
		t.Errorf("after the token expired: %q, %v", got, err)
	}
}

func TestUnauthorized(t *testing.T) {
	reg := newTokenRegistry(t, "me")
	_, err := readBlob(t.Context(), repository(t, strings.TrimPrefix(reg.URL, "http://"), nil))
	e, ok := errors.AsType[*distribution.Error](err)
	if !ok || !e.Unauthorized() {
		t.Errorf("got %v, want Unauthorized", err)
	}
}

func TestBasicAuth(t *testing.T) {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:secret"))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != want {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.UserAgent() != "portal/1.0" || r.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("header %v", r.Header)
		}
		_, _ = io.WriteString(w, "blob")
	}))
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "http://")
	for password, good := range map[string]bool{"secret": true, "wrong": false} {
		got, err := readBlob(t.Context(), repository(t, host, &distribution.Config{
			UserAgent: "portal/1.0",
			Credentials: func(context.Context, string) (distribution.Credential, error) {
				return distribution.Credential{Username: "me", Password: password}, nil
			},
		}))
		if e, ok := errors.AsType[*distribution.Error](err); good != (got == "blob" && err == nil) || (!good && (!ok || !e.Unauthorized())) {
			t.Errorf("password %s: %q, %v", password, got, err)
		}
		if err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("error %q has the password", err)
		}
	}
}

func TestCredentialsFail(t *testing.T) {
	broken := errors.New("vault is sealed")
	host := serve(t, func(http.ResponseWriter, *http.Request) {})
	_, err := readBlob(t.Context(), repository(t, host, &distribution.Config{
		Credentials: func(context.Context, string) (distribution.Credential, error) {
			return distribution.Credential{}, broken
		},
	}))
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestTags(t *testing.T) {
	host := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("last") {
		case "":
			w.Header().Set("Link", `</v2/a/b/tags/list?last=b&n=2>; rel="next"`)
			_, _ = io.WriteString(w, `{"tags":["a","b"]}`)
		case "b":
			_, _ = io.WriteString(w, `{"tags":["c"]}`)
		}
	})
	tags, err := repository(t, host, nil).Tags(t.Context())
	if err != nil || strings.Join(tags, " ") != "a b c" {
		t.Errorf("%v, %v", tags, err)
	}
	loop := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", `<`+r.URL.RequestURI()+`>; rel="next"`)
		_, _ = io.WriteString(w, `{"tags":["a"]}`)
	})
	if _, err := repository(t, loop, nil).Tags(t.Context()); err == nil {
		t.Error("pages that do not end were accepted")
	}
	endless := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	if _, err := repository(t, endless, nil).Tags(t.Context()); !errors.Is(err, distribution.ErrTooLong) {
		t.Errorf("endless page: %v", err)
	}
}

// TestErrorBody: what a registry says is quoted, but neither without bound nor with control characters.
func TestErrorBody(t *testing.T) {
	for _, body := range []string{
		`{"errors":[{"code":"DENIED","message":"quota \u001b[31mexceeded"}]}`,
		`{"errors":[` + strings.Repeat(`{"code":"DENIED","message":"m"},`, 999) + `{"code":"X"}]}`,
		strings.Repeat("<html>", 100_000),
	} {
		host := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, body)
		})
		_, err := readBlob(t.Context(), repository(t, host, nil))
		e, ok := errors.AsType[*distribution.Error](err)
		if !ok || !e.Unauthorized() || len(err.Error()) > 2000 || strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("%.60s: %.300v", body, err)
		}
	}
}
