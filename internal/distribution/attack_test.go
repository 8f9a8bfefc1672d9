package distribution_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"hpcimg/internal/distribution"
)

// login is a config with credentials that say whose they are.
func login(user, password string) *distribution.Config {
	return &distribution.Config{Credentials: func(context.Context, string) (distribution.Credential, error) {
		return distribution.Credential{Username: user, Password: password}, nil
	}}
}

// identity is a config with an OAuth2 refresh token.
func identity(token string) *distribution.Config {
	return &distribution.Config{Credentials: func(context.Context, string) (distribution.Credential, error) {
		return distribution.Credential{IdentityToken: token}, nil
	}}
}

// within runs f and fails if it takes longer than a moment.
func within(t *testing.T, d time.Duration, f func(ctx context.Context)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	f(ctx)
	if ctx.Err() != nil {
		t.Errorf("took longer than %s", d)
	}
}

// TestRefreshTokensRotate: token servers that hand out new refresh tokens, asked by many goroutines whose tokens expire together.
func TestRefreshTokensRotate(t *testing.T) {
	var mu sync.Mutex
	var issued int
	valid := map[string]bool{}
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path == "/token" {
			if r.Method != http.MethodPost || !strings.HasPrefix(r.PostFormValue("refresh_token"), "refresh") {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			issued++
			token := fmt.Sprintf("token-%d", issued)
			valid[token] = true
			fmt.Fprintf(w, `{"access_token":%q,"refresh_token":"refresh-%d"}`, token, issued)
			return
		}
		if token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "); !valid[token] {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, "blob")
	}))
	t.Cleanup(s.Close)
	r := repository(t, strings.TrimPrefix(s.URL, "http://"), identity("refresh-0"))
	for range 10 {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if got, err := readBlob(t.Context(), r); got != "blob" || err != nil {
					t.Errorf("%q, %v", got, err)
				}
			})
		}
		wg.Wait()
		mu.Lock()
		clear(valid)
		mu.Unlock()
	}
	if issued > 20 {
		t.Errorf("%d tokens were asked for where 10 had expired", issued)
	}
}

// TestEndlessPing: the body of the first answer has no end.
func TestEndlessPing(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			for r.Context().Err() == nil {
				_, _ = w.Write(make([]byte, 1<<16))
				w.(http.Flusher).Flush()
			}
		}
		_, _ = io.WriteString(w, "blob")
	}))
	t.Cleanup(s.CloseClientConnections)
	t.Cleanup(s.Close)
	within(t, 10*time.Second, func(ctx context.Context) {
		if got, err := readBlob(ctx, repository(t, strings.TrimPrefix(s.URL, "http://"), nil)); got != "blob" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// TestSlowTLSIsNotPlain: plain HTTP is for registries that speak no HTTPS, not for those whose HTTPS takes a moment.
func TestSlowTLSIsNotPlain(t *testing.T) {
	var plain atomic.Int32
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			plain.Add(1)
		}
		_, _ = io.WriteString(w, "blob")
	})
	secure, insecure := httptest.NewTLSServer(h), httptest.NewServer(h)
	t.Cleanup(secure.Close)
	t.Cleanup(insecure.Close)
	transport := secure.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.ServerName = "example.com" // of the test server's certificate
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.HasSuffix(addr, ":80") {
			return (&net.Dialer{}).DialContext(ctx, network, insecure.Listener.Addr().String())
		}
		time.Sleep(700 * time.Millisecond)
		return (&net.Dialer{}).DialContext(ctx, network, secure.Listener.Addr().String())
	}
	t.Cleanup(transport.CloseIdleConnections)
	config := login("me", "secret")
	config.Transport, config.PlainHTTP = transport, true
	if got, err := readBlob(t.Context(), repository(t, "registry.test", config)); got != "blob" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if n := plain.Load(); n > 0 {
		t.Errorf("%d requests without TLS", n)
	}
}

// TestBadCertificateIsNotPlain: a certificate that does not verify is no reason to do without one.
func TestBadCertificateIsNotPlain(t *testing.T) {
	var plain atomic.Int32
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	secure.Config.ErrorLog = quiet()
	secure.StartTLS()
	insecure := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { plain.Add(1) }))
	t.Cleanup(secure.Close)
	t.Cleanup(insecure.Close)
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.HasSuffix(addr, ":80") {
			return (&net.Dialer{}).DialContext(ctx, network, insecure.Listener.Addr().String())
		}
		return (&net.Dialer{}).DialContext(ctx, network, secure.Listener.Addr().String())
	}}
	t.Cleanup(transport.CloseIdleConnections)
	_, err := readBlob(t.Context(), repository(t, "registry.test", &distribution.Config{Transport: transport, PlainHTTP: true}))
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok || plain.Load() > 0 {
		t.Errorf("got %v, and %d requests without TLS", err, plain.Load())
	}
}

// TestTokenExpiresDuringPush: the token is good when the blobs start and not any more when the manifest comes.
func TestTokenExpiresDuringPush(t *testing.T) {
	reg := newTokenRegistry(t, "me")
	var got atomic.Value
	reg.inner = func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got.Store(string(b))
		w.WriteHeader(http.StatusCreated)
	}
	repo, err := distribution.New(login("me", "x")).Repository(strings.TrimPrefix(reg.URL, "http://"), "a/b", distribution.PullPush)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := repo.PushManifest(t.Context(), "v1", "application/json", []byte("manifest")); err != nil || got.Load() != "manifest" {
			t.Errorf("pushed %q, %v", got.Load(), err)
		}
		reg.expire()
	}
}

// TestSignedURLsStayPrivate: the URL that a redirect leads to may hold a signature; the next host is not told.
func TestSignedURLsStayPrivate(t *testing.T) {
	last := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range r.Header {
			if strings.Contains(strings.Join(values, " "), "SIGNATURE") {
				t.Errorf("%s: %s", name, values)
			}
		}
		_, _ = io.WriteString(w, "blob")
	}))
	t.Cleanup(last.Close)
	storage := httptest.NewServer(http.RedirectHandler(last.URL+"/x", http.StatusTemporaryRedirect))
	t.Cleanup(storage.Close)
	host := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, storage.URL+"/x?sig=SIGNATURE", http.StatusTemporaryRedirect)
	})
	if got, err := readBlob(t.Context(), repository(t, host, nil)); got != "blob" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// TestTokenServerRedirects: neither a password nor a refresh token goes where the token server points to.
func TestTokenServerRedirects(t *testing.T) {
	for name, config := range map[string]*distribution.Config{"password": login("me", "SECRET"), "refresh token": identity("SECRET")} {
		t.Run(name, func(t *testing.T) {
			other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if _, password, _ := r.BasicAuth(); password != "" || strings.Contains(string(body)+r.URL.String(), "SECRET") {
					t.Errorf("%s %s with %s and %v", r.Method, r.URL, body, r.Header)
				}
				_, _ = io.WriteString(w, `{"token":"x"}`)
			}))
			t.Cleanup(other.Close)
			var s *httptest.Server
			s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token" {
					http.Redirect(w, r, other.URL+"/token", http.StatusTemporaryRedirect)
					return
				}
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token"`)
				w.WriteHeader(http.StatusUnauthorized)
			}))
			t.Cleanup(s.Close)
			if _, err := readBlob(t.Context(), repository(t, strings.TrimPrefix(s.URL, "http://"), config)); err == nil {
				t.Error("no error")
			}
		})
	}
}

// TestTokenServerAnswers: what a token server says ends up in no error as it is.
func TestTokenServerAnswers(t *testing.T) {
	for _, tc := range []struct {
		name, body string
		status     int
	}{
		{"no token", `{"\u001b]0;owned":"` + strings.Repeat("x", 10_000) + "\x1b[1m" + `"}`, 200},
		{"not JSON", "\x1b]0;owned\a" + strings.Repeat("x", 10_000), 200},
		{"refused", "\x1b]0;owned\a" + strings.Repeat("x", 10_000), 403},
		{"newline in token", `{"token":"a\r\nX-Evil: 1"}`, 200},
		{"endless", strings.Repeat(" ", 1<<20), 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var s *httptest.Server
			s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token" {
					w.WriteHeader(tc.status)
					_, _ = io.WriteString(w, tc.body)
					return
				}
				w.Header().Set("WWW-Authenticate", "Bearer realm=\""+s.URL+"/token\",service=\"\u202e\"")
				w.WriteHeader(http.StatusUnauthorized)
			}))
			t.Cleanup(s.Close)
			_, err := readBlob(t.Context(), repository(t, strings.TrimPrefix(s.URL, "http://"), nil))
			if _, ok := errors.AsType[*distribution.Error](err); !ok || len(err.Error()) > 2000 || !printable(err) {
				t.Errorf("got %.300q", fmt.Sprint(err))
			}
		})
	}
}

func printable(err error) bool {
	return !strings.ContainsFunc(err.Error(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) })
}

// TestTokenServerIsBusy: the token server's wish to be left alone is passed on like the registry's.
func TestTokenServerIsBusy(t *testing.T) {
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(s.Close)
	_, err := readBlob(t.Context(), repository(t, strings.TrimPrefix(s.URL, "http://"), nil))
	if e, ok := errors.AsType[*distribution.Error](err); !ok || e.Status != 429 || e.RetryAfter != time.Hour {
		t.Errorf("got %#v", err)
	}
}

// TestRedirectToThisMachine: every way to write it, on behalf of a registry that is elsewhere.
func TestRedirectToThisMachine(t *testing.T) {
	for _, host := range []string{
		"127.0.0.1", "127.0.0.2:80", "[::1]", "localhost", "LOCALHOST.", "a.localhost", "0.0.0.0", "0.0.0.0:5000", "[::]", "[::ffff:127.0.0.1]",
		"[::ffff:0.0.0.0]", "169.254.169.254", "[fe80::1%25eth0]", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "0",
	} {
		r := guarded(t, true, func(w http.ResponseWriter, r *http.Request) {
			if r.Host != "registry.test" {
				t.Errorf("asked %s", r.Host)
				return
			}
			w.Header().Set("Location", "http://"+host+"/x")
			w.WriteHeader(http.StatusTemporaryRedirect)
		})
		if _, err := readBlob(t.Context(), r); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// TestNewPassword: somebody who logs in again need not start the program again.
func TestNewPassword(t *testing.T) {
	for _, scheme := range []string{"Basic", "Bearer"} {
		t.Run(scheme, func(t *testing.T) {
			var good, have atomic.Value
			good.Store("one")
			have.Store("one")
			var s *httptest.Server
			s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, password, _ := r.BasicAuth()
				switch {
				case r.URL.Path == "/token" && password == good.Load():
					fmt.Fprintf(w, `{"token":%q}`, password)
					return
				case r.URL.Path == "/token":
				case scheme == "Basic" && password == good.Load(),
					scheme == "Bearer" && r.Header.Get("Authorization") == "Bearer "+good.Load().(string):
					_, _ = io.WriteString(w, "blob")
					return
				}
				w.Header().Set("WWW-Authenticate", scheme+` realm="`+s.URL+`/token"`)
				w.WriteHeader(http.StatusUnauthorized)
			}))
			t.Cleanup(s.Close)
			r := repository(t, strings.TrimPrefix(s.URL, "http://"), &distribution.Config{
				Credentials: func(context.Context, string) (distribution.Credential, error) {
					return distribution.Credential{Username: "me", Password: have.Load().(string)}, nil
				},
			})
			for _, step := range []struct {
				good, have string
				ok         bool
			}{{"one", "one", true}, {"two", "one", false}, {"two", "two", true}, {"three", "three", true}} {
				good.Store(step.good)
				have.Store(step.have)
				got, err := readBlob(t.Context(), r)
				if e, isError := errors.AsType[*distribution.Error](err); (got == "blob") != step.ok || (!step.ok && (!isError || !e.Unauthorized())) {
					t.Errorf("%+v: %q, %v", step, got, err)
				}
			}
		})
	}
}

// TestTokenServerElsewhere: sites have their token server beside the registry, on a private address of its own.
func TestTokenServerElsewhere(t *testing.T) {
	transport := roundTripper(func(r *http.Request) (*http.Response, error) {
		answer := func(status int, header, value, body string) (*http.Response, error) {
			h := http.Header{}
			h.Set(header, value)
			return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
		}
		user, _, basic := r.BasicAuth()
		switch {
		case r.URL.Scheme != "https":
			t.Errorf("asked %s", r.URL)
		case r.URL.Host == "10.1.2.3:5001" && user == "me":
			return answer(200, "X", "", `{"token":"t"}`)
		case r.URL.Host == "registry.test" && r.Header.Get("Authorization") == "Bearer t":
			return answer(200, "X", "", "blob")
		case r.URL.Host == "registry.test" && !basic:
			return answer(401, "WWW-Authenticate", `Bearer realm="https://10.1.2.3:5001/token"`, "")
		default:
			t.Errorf("asked %s with %v", r.URL, r.Header)
		}
		return answer(404, "X", "", "")
	})
	config := login("me", "x")
	config.Transport = transport
	if got, err := readBlob(t.Context(), repository(t, "registry.test", config)); got != "blob" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// TestRealms: token servers that credentials are not sent to.
func TestRealms(t *testing.T) {
	for _, realm := range []string{
		"http://registry.test/token", "ftp://registry.test/token", "", "//registry.test/token", "https://127.0.0.1/token",
		"https://169.254.169.254/token", "https://[::]/token", "file:///etc/passwd", "%zz",
	} {
		config := login("me", "x")
		config.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Header.Get("Authorization") != "" || r.URL.Path != "/v2/" {
				t.Errorf("%s: asked %s with %v", realm, r.URL, r.Header)
			}
			h := http.Header{}
			h.Set("WWW-Authenticate", `Bearer realm="`+realm+`"`)
			return &http.Response{StatusCode: 401, Header: h, Body: http.NoBody, Request: r}, nil
		})
		if _, err := readBlob(t.Context(), repository(t, "registry.test", config)); err == nil {
			t.Errorf("%s: no error", realm)
		}
	}
}

// TestHugeTags: the names in a tag list are bounded together, and fit for a terminal.
func TestHugeTags(t *testing.T) {
	for name, page := range map[string]string{
		"long":     `{"tags":["` + strings.Repeat("x", 3<<20) + `"]}`,
		"escape":   `{"tags":["\u001b[31m"]}`,
		"path":     `{"tags":["../../x"]}`,
		"empty":    `{"tags":[""]}`,
		"endless":  `{"tags":[` + strings.Repeat(`"`+strings.Repeat("x", 128)+`",`, 30_000) + `"x"]}`,
		"not JSON": "<html>",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int32
			host := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Link", fmt.Sprintf(`</v2/a/b/tags/list?last=%d>; rel="next"`, n.Add(1)))
				_, _ = io.WriteString(w, page)
			})
			tags, err := repository(t, host, nil).Tags(t.Context())
			if err == nil || !printable(err) {
				t.Errorf("%d tags, %v", len(tags), err)
			}
			if n.Load() > 50 {
				t.Errorf("%d pages", n.Load())
			}
		})
	}
}

// TestHugeErrorPage: the status is what counts, however long the page is that comes with it.
func TestHugeErrorPage(t *testing.T) {
	host := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		_, _ = w.Write(bytes.Repeat([]byte("<html>"), 100_000))
	})
	_, err := readBlob(t.Context(), repository(t, host, nil))
	if e, ok := errors.AsType[*distribution.Error](err); !ok || e.Status != 409 || !strings.Contains(err.Error(), "409") {
		t.Errorf("got %v", err)
	}
}

// TestDrip: an answer of a byte now and then ends in a time that depends on our patience, whatever it answers.
func TestDrip(t *testing.T) {
	drip := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, " ")
			w.(http.Flusher).Flush()
			time.Sleep(5 * time.Millisecond)
		}
	}
	for _, path := range []string{"/v2/", "/token", "/v2/a/b/manifests/v1", "/v2/a/b/tags/list", "/v2/a/b/blobs/" + blobDigest, "error"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			var s *httptest.Server
			s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == path:
					drip(w, r)
				case path == "/token":
					w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token"`)
					w.WriteHeader(http.StatusUnauthorized)
				case path == "error" && r.URL.Path != "/v2/":
					w.WriteHeader(http.StatusConflict)
					drip(w, r)
				}
			}))
			t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
			r := repository(t, strings.TrimPrefix(s.URL, "http://"), &distribution.Config{
				IdleTimeout: 100 * time.Millisecond, MinRate: 1 << 20, RetryBudget: 100 * time.Millisecond, Attempts: 2,
			})
			within(t, 10*time.Second, func(ctx context.Context) {
				for what, f := range map[string]func() error{
					"manifest": func() error { _, err := r.Manifest(ctx, "v1", nil, 1<<20); return err },
					"tags":     func() error { _, err := r.Tags(ctx); return err },
					"blob":     func() error { _, err := readBlob(ctx, r); return err },
				} {
					err := f()
					if _, ok := errors.AsType[*distribution.Error](err); err != nil && !ok {
						t.Errorf("%s: %v", what, err)
					}
				}
			})
		})
	}
}

// TestManifestBreaks: a document that breaks is asked for again as a whole; what a tag names may have changed.
func TestManifestBreaks(t *testing.T) {
	var n atomic.Int32
	host := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) == 1 {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"old":`)
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, `{}`)
	})
	doc, err := repository(t, host, nil).Manifest(t.Context(), "v1", nil, 1000)
	if err != nil || string(doc.Raw) != "{}" {
		t.Errorf("%+v, %v", doc, err)
	}
}

// TestUploadsElsewhere: an upload may be sent to another host, but nobody's password with it.
func TestUploadsElsewhere(t *testing.T) {
	var got atomic.Value
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Header.Get("Referer") != "" {
			t.Errorf("told %v", r.Header)
		}
		b, _ := io.ReadAll(r.Body)
		got.Store(string(b))
		w.WriteHeader(http.StatusCreated)
	}))
	t.Cleanup(other.Close)
	for _, location := range []string{other.URL + "/x?state=1", "file:///etc/passwd", "%zz", "", "http://registry.test/x"} {
		got.Store("")
		host := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", location)
			w.WriteHeader(http.StatusAccepted)
		})
		repo, err := distribution.New(login("me", "SECRET")).Repository(host, "a/b", distribution.PullPush)
		if err != nil {
			t.Fatal(err)
		}
		open := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("blob")), nil }
		_, err = repo.PushBlob(t.Context(), blobDigest, 4, open, nil)
		if good := strings.HasPrefix(location, other.URL); good != (err == nil) || good != (got.Load() == "blob") {
			t.Errorf("%q: %v, and %q arrived", location, err, got.Load())
		}
	}
}

// TestUploadBehindTLS: a registry behind a proxy that adds TLS names an upload without it.
func TestUploadBehindTLS(t *testing.T) {
	var s *httptest.Server
	s = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.Header().Set("Location", strings.Replace(s.URL, "https://", "http://", 1)+"/upload")
			w.WriteHeader(http.StatusAccepted)
			return
		}
		w.WriteHeader(http.StatusCreated)
	}))
	t.Cleanup(s.Close)
	repo, err := distribution.New(&distribution.Config{Transport: s.Client().Transport}).
		Repository(strings.TrimPrefix(s.URL, "https://"), "a/b", distribution.PullPush)
	if err != nil {
		t.Fatal(err)
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("blob")), nil }
	if _, err := repo.PushBlob(t.Context(), blobDigest, 4, open, nil); err != nil {
		t.Error(err)
	}
}

// TestManySessions: a client that lives as long as a gateway does not remember every repository it has seen.
func TestManySessions(t *testing.T) {
	var tokens atomic.Int32
	host := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "blob") })
	c := distribution.New(&distribution.Config{Credentials: func(context.Context, string) (distribution.Credential, error) {
		tokens.Add(1)
		return distribution.Credential{}, nil
	}})
	first, err := c.Repository(host, "first", distribution.Pull)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5000 {
		if _, err := c.Repository(host, fmt.Sprintf("r%d", i), distribution.Pull); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		// A repository that somebody holds keeps its session.
		if got, err := readBlob(t.Context(), first); got != "blob" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	if tokens.Load() != 1 {
		t.Errorf("asked %d times for credentials", tokens.Load())
	}
}
