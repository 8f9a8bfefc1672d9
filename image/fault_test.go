package image_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"hpcimg/image"
	"hpcimg/image/cache"
)

// fault is one way in which the download of a layer can go wrong.
type fault struct {
	name string
	// answer is given request n for the layer, from 1.
	answer func(f *faulty, n int, w http.ResponseWriter, r *http.Request)
	want   error // nil: the layer arrives
	// check looks at the error, or at what happened.
	check  func(f *faulty, err error) error
	twice  int64 // bytes that may be downloaded a second time; default: 1 MiB
	setup  func(f *faulty)
	budget time.Duration // for those who are asked to wait
	idle   time.Duration // for those who wait for nothing; the others may be on a busy machine
}

const half = faultySize / 2

func stall(r *http.Request) { <-r.Context().Done() }

// once spoils the first answer.
func once(bad func(f *faulty, w http.ResponseWriter, r *http.Request)) func(*faulty, int, http.ResponseWriter, *http.Request) {
	return times(1, bad)
}

// times spoils the first answers.
func times(k int, bad func(f *faulty, w http.ResponseWriter, r *http.Request)) func(*faulty, int, http.ResponseWriter, *http.Request) {
	return func(f *faulty, n int, w http.ResponseWriter, r *http.Request) {
		if n > k {
			f.good(w, r)
			return
		}
		bad(f, w, r)
	}
}

// after cuts the first answer in half; bad gives the following k, the right ones come then.
func after(k int, bad func(f *faulty, w http.ResponseWriter, r *http.Request)) func(*faulty, int, http.ResponseWriter, *http.Request) {
	return func(f *faulty, n int, w http.ResponseWriter, r *http.Request) {
		switch {
		case n == 1:
			f.cut(w, r, half)
		case n <= k+1:
			bad(f, w, r)
		default:
			f.good(w, r)
		}
	}
}

const always = 1 << 20

func status(code int, header ...string) func(f *faulty, w http.ResponseWriter, r *http.Request) {
	return func(_ *faulty, w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

func answer(text string, args ...any) func(f *faulty, w http.ResponseWriter, r *http.Request) {
	return func(f *faulty, w http.ResponseWriter, _ *http.Request) { f.raw(w, fmt.Sprintf(text, args...), false) }
}

func elsewhere(path string) func(f *faulty, w http.ResponseWriter, r *http.Request) {
	return func(f *faulty, w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, f.other.URL+path, http.StatusTemporaryRedirect)
	}
}

func htmlPage(_ *faulty, w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = io.WriteString(w, "<html>please log in</html>")
}

func requests(want int32) func(*faulty, error) error {
	return func(f *faulty, _ error) error {
		if n := f.requests.Load(); n != want {
			return fmt.Errorf("%d requests, want %d", n, want)
		}
		return nil
	}
}

func unauthorized(_ *faulty, err error) error {
	if _, ok := errors.AsType[*image.UnauthorizedError](err); !ok {
		return fmt.Errorf("want *UnauthorizedError")
	}
	return nil
}

// transport checks for a *TransportError with this status.
func transport(status int) func(*faulty, error) error {
	return func(_ *faulty, err error) error {
		if te, ok := errors.AsType[*image.TransportError](err); !ok || te.Status != status {
			return fmt.Errorf("want *TransportError with status %d", status)
		}
		return nil
	}
}

var errAny = errors.New("any error")

func faults() []fault {
	b := faultyBlob()
	return []fault{
		{name: "none", answer: times(0, nil), check: requests(1)},

		// Cut at every phase.
		{name: "cut before the answer", answer: once(answer(""))},
		{name: "cut in the status line", answer: once(answer("HTTP/1.1 20"))},
		{name: "cut in the header", answer: once(answer("HTTP/1.1 200 OK\r\nContent-Le"))},
		{name: "cut after the header", answer: once(func(f *faulty, w http.ResponseWriter, r *http.Request) { f.cut(w, r, 0) })},
		{name: "cut after a byte", answer: once(func(f *faulty, w http.ResponseWriter, r *http.Request) { f.cut(w, r, 1) })},
		{name: "cut in half", answer: once(func(f *faulty, w http.ResponseWriter, r *http.Request) { f.cut(w, r, half) }), check: requests(2)},
		{name: "cut before the last byte", answer: once(func(f *faulty, w http.ResponseWriter, r *http.Request) { f.cut(w, r, faultySize-1) })},
		{name: "reset in half", answer: once(func(f *faulty, w http.ResponseWriter, _ *http.Request) {
			f.raw(w, head("200 OK", fmt.Sprintf("Content-Length: %d\r\n", faultySize))+string(b[:half]), true)
		})},
		{name: "cut again and again", answer: times(5, func(f *faulty, w http.ResponseWriter, r *http.Request) { f.cut(w, r, 600<<10) })},
		{
			name: "cut too often", answer: times(always, func(f *faulty, w http.ResponseWriter, r *http.Request) { f.cut(w, r, 100<<10) }),
			want: io.ErrUnexpectedEOF, check: func(f *faulty, err error) error {
				return errors.Join(transport(0)(f, err), requests(4)(f, err))
			},
		},
		{name: "cut at once, always", answer: times(always, answer("")), want: io.EOF, check: transport(0)},

		// Length by other means.
		{name: "chunked", answer: once(func(_ *faulty, w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = w.Write(b)
		}), check: requests(1)},
		{name: "chunked, cut", answer: once(func(_ *faulty, w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(b[:half])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		})},
		{name: "chunked, ends early", answer: once(func(_ *faulty, w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(b[:half])
			w.(http.Flusher).Flush()
		})},
		{name: "chunked, no end", idle: 250 * time.Millisecond, answer: once(func(_ *faulty, w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = w.Write(b)
			w.(http.Flusher).Flush()
			stall(r)
		})},
		{name: "chunked, endless", answer: once(func(_ *faulty, w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write(b)
			}
		}), want: image.ErrDigest, twice: 64 << 20},
		{name: "until the connection closes", answer: once(answer("HTTP/1.0 200 OK\r\n\r\n%s", b)), check: requests(1)},
		{name: "until the connection closes, early", answer: once(answer("HTTP/1.0 200 OK\r\n\r\n%s", b[:half]))},

		// Silence.
		{name: "stall before the answer", idle: 250 * time.Millisecond, answer: once(func(_ *faulty, _ http.ResponseWriter, r *http.Request) { stall(r) })},
		{
			name: "stall before the answer, always", idle: 250 * time.Millisecond, answer: times(always, func(_ *faulty, _ http.ResponseWriter, r *http.Request) { stall(r) }),
			want: image.ErrStalled, check: transport(0),
		},
		{name: "stall in half", idle: 250 * time.Millisecond, answer: once(func(f *faulty, w http.ResponseWriter, r *http.Request) { f.begin(w, r, half); stall(r) })},
		{
			name: "stall at every byte", idle: 250 * time.Millisecond, answer: times(always, func(f *faulty, w http.ResponseWriter, r *http.Request) { f.begin(w, r, 1); stall(r) }),
			want: image.ErrStalled, check: transport(0),
		},
		{name: "slow drip", idle: 250 * time.Millisecond, answer: times(always, func(f *faulty, w http.ResponseWriter, r *http.Request) {
			f.begin(w, r, 100)
			for i := 100; r.Context().Err() == nil; i++ {
				_, _ = w.Write(b[i : i+1])
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		}), want: image.ErrStalled, check: transport(0)},
		{name: "slow drip of a header", idle: 250 * time.Millisecond, answer: times(always, func(f *faulty, w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX: ")
			for ; err == nil; _, err = io.WriteString(conn, "x") {
				time.Sleep(10 * time.Millisecond)
			}
			_ = conn.Close()
		}), want: image.ErrStalled, check: transport(0)},

		// Another blob than that.
		{name: "short by its length", answer: times(always, answer("%s", head("200 OK", "Content-Length: 3\r\n")+"abc")), want: image.ErrDigest, check: requests(3)},
		{
			name: "long by its length", answer: times(always, answer("%s", head("200 OK", fmt.Sprintf("Content-Length: %d\r\n", faultySize+1))+string(b)+"x")),
			want: image.ErrDigest, twice: 16 << 20,
		},
		{name: "another length, once", answer: once(answer("%s", head("200 OK", "Content-Length: 3\r\n")+"abc"))},
		{name: "HTML page, once", answer: once(htmlPage)},
		{name: "HTML page, always", answer: times(always, htmlPage), want: image.ErrDigest, check: func(_ *faulty, err error) error {
			if !strings.Contains(err.Error(), "login page") {
				return errors.New("no hint at a login page")
			}
			return nil
		}},
		{name: "HTML page in the middle", answer: after(1, htmlPage)},
		{name: "other content", answer: once(answer("%s", head("200 OK", fmt.Sprintf("Content-Length: %d\r\n", faultySize))+strings.Repeat("x", faultySize))), want: image.ErrDigest},
		{name: "other content in the rest", answer: after(1, func(f *faulty, w http.ResponseWriter, r *http.Request) {
			n := faultySize - rangeStart(r)
			f.raw(w, head("206 Partial Content", fmt.Sprintf("Content-Length: %d\r\nContent-Range: bytes %d-%d/%d\r\n", n, rangeStart(r), faultySize-1, faultySize))+
				strings.Repeat("x", int(n)), false)
		}), want: image.ErrDigest},
		{name: "compressed", answer: times(always, answer("%s", head("200 OK", "Content-Encoding: gzip\r\nContent-Length: 3\r\n")+"\x1f\x8b\x08")), want: image.ErrDigest},

		// Ranges.
		{name: "ranges ignored", answer: after(always, func(f *faulty, w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			f.good(w, r)
		}), twice: half + 1<<20},
		{name: "ranges ignored, cut again", answer: times(2, func(f *faulty, w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			f.cut(w, r, half+int(f.requests.Load())*1000)
		}), twice: 2*half + 1<<20},
		{name: "from another byte", answer: after(1, answer("%s", head("206 Partial Content", fmt.Sprintf("Content-Range: bytes 0-%d/%d\r\n", faultySize-1, faultySize))+string(b)))},
		{
			name: "from another byte, always", answer: after(always, answer("%s", head("206 Partial Content", fmt.Sprintf("Content-Range: bytes 5-%d/%d\r\n", faultySize-1, faultySize)))),
			want: errAny, check: transport(0),
		},
		{name: "a part of what is unsaid", answer: after(1, answer("%s", head("206 Partial Content", "")+"abc"))},
		{name: "a part of something longer", answer: after(always, func(f *faulty, w http.ResponseWriter, r *http.Request) {
			f.raw(w, head("206 Partial Content", fmt.Sprintf("Content-Range: bytes %d-%d/%d\r\n", rangeStart(r), faultySize, faultySize+1)), false)
		}), want: image.ErrDigest},
		{name: "a part behind the end", answer: after(always, func(f *faulty, w http.ResponseWriter, r *http.Request) {
			f.raw(w, head("206 Partial Content", fmt.Sprintf("Content-Range: bytes %d-9223372036854775807/*\r\n", rangeStart(r))), false)
		}), want: errAny, check: transport(0)},
		{name: "a part that is too long", answer: after(always, func(f *faulty, w http.ResponseWriter, r *http.Request) {
			f.raw(w, head("206 Partial Content", fmt.Sprintf("Content-Length: 5\r\nContent-Range: bytes %d-%d/*\r\n", rangeStart(r), rangeStart(r)+1)), false)
		}), want: errAny, check: transport(0)},
		{
			name: "several parts", answer: after(always, answer("%s", head("206 Partial Content", "Content-Type: multipart/byteranges; boundary=x\r\n")+"--x\r\n")),
			want: errAny, check: transport(0),
		},
		{
			name: "a part that nobody asked for", answer: times(always, answer("%s", head("206 Partial Content", fmt.Sprintf("Content-Range: bytes 0-%d/%[1]d\r\n", faultySize)))),
			want: errAny, check: transport(0),
		},
		{name: "in pieces", answer: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				f.cut(w, r, 1000)
			}
			from := rangeStart(r)
			last := min(from+1<<20, faultySize) - 1
			f.raw(w, head("206 Partial Content", fmt.Sprintf("Content-Length: %d\r\nContent-Range: bytes %d-%d/*\r\n", last-from+1, from, last))+string(b[from:last+1]), false)
		}, check: requests(5)},
		{name: "416, once", answer: after(1, status(416)), twice: half + 1<<20},
		{name: "416, always", answer: after(always, status(416, "Content-Range", "bytes */5")), want: errAny, check: transport(416)},
		{name: "validators differ", setup: func(f *faulty) { f.etag = `"n0"` }, answer: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) {
			f.mu.Lock()
			f.etag = fmt.Sprintf(`"n%d"`, n)
			f.mu.Unlock()
			if n == 1 {
				f.cut(w, r, half)
			}
			f.good(w, r)
		}, twice: 2 << 20},
		{name: "validator is used", answer: after(1, func(f *faulty, w http.ResponseWriter, r *http.Request) { f.good(w, r) }), check: func(f *faulty, _ error) error {
			if f.ifRanges[1] != `"v1"` {
				return fmt.Errorf("If-Range %q", f.ifRanges)
			}
			return nil
		}},
		{
			name: "weak validator is not used", setup: func(f *faulty) { f.etag = `W/"v1"` },
			answer: after(1, func(f *faulty, w http.ResponseWriter, r *http.Request) { f.good(w, r) }), check: func(f *faulty, _ error) error {
				if f.ifRanges[1] != "" {
					return fmt.Errorf("If-Range %q", f.ifRanges)
				}
				return nil
			},
		},

		// Rights.
		{name: "token expires in the middle", answer: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				f.expire()
				f.cut(w, r, half)
			}
			f.good(w, r)
		}, check: func(f *faulty, _ error) error {
			if n := f.tokens.Load(); n != 2 {
				return fmt.Errorf("%d tokens", n)
			}
			return nil
		}},
		{name: "token server fails in the middle", setup: func(f *faulty) {
			f.onToken = func(n int32, w http.ResponseWriter) bool {
				if n == 2 || n == 3 {
					w.WriteHeader(http.StatusServiceUnavailable)
				}
				return n == 2 || n == 3
			}
		}, answer: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				f.expire()
				f.cut(w, r, half)
			}
			f.good(w, r)
		}},
		{
			name: "401 from the middle on", answer: after(always, func(f *faulty, w http.ResponseWriter, _ *http.Request) { f.challenge(w, f.server.URL+"/token") }),
			want: errAny, check: unauthorized,
		},
		{
			name: "401 with a realm elsewhere", answer: after(always, func(f *faulty, w http.ResponseWriter, _ *http.Request) { f.challenge(w, f.other.URL+"/token") }),
			want: errAny, check: unauthorized,
		},
		{name: "403", answer: times(always, status(403)), want: errAny, check: func(f *faulty, err error) error {
			return errors.Join(unauthorized(f, err), requests(1)(f, err))
		}},
		{name: "403 in the middle, once", answer: after(1, status(403))},
		{name: "403 from the middle on", answer: after(always, status(403)), want: errAny, check: unauthorized},
		{name: "404", answer: times(always, status(404)), want: fs.ErrNotExist, check: requests(1)},
		{name: "404 in the middle, once", answer: after(1, status(404))},
		{name: "404 from the middle on", answer: after(always, status(404)), want: fs.ErrNotExist},
		{name: "410", answer: times(always, status(410)), want: errAny, check: transport(410)},

		// Overload.
		{name: "429 with Retry-After", budget: 4 * time.Second, answer: once(status(429, "Retry-After", "1")), check: requests(2)},
		{name: "429 with a long Retry-After", answer: times(always, status(429, "Retry-After", "3600")), want: errAny, check: func(f *faulty, err error) error {
			te, ok := errors.AsType[*image.TransportError](err)
			if !ok || te.RetryAfter != time.Hour || te.Status != 429 {
				return errors.New("want RetryAfter of an hour")
			}
			return requests(1)(f, err)
		}},
		{name: "429 with an endless Retry-After", answer: times(always, status(429, "Retry-After", "99999999999999999999")), want: errAny, check: requests(1)},
		{name: "429 in the middle", answer: after(2, status(429))},
		{name: "429, always", answer: times(always, status(429)), want: errAny, check: transport(429)},
		{name: "500, 502, 503", answer: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) {
			if n <= 3 {
				w.WriteHeader([]int{500, 502, 503}[n-1])
				return
			}
			f.good(w, r)
		}},
		{name: "504 in the middle", answer: after(2, status(504))},
		{name: "503 with a date", budget: 4 * time.Second, answer: once(func(_ *faulty, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", time.Now().Add(time.Second).UTC().Format(http.TimeFormat))
			w.WriteHeader(503)
		})},
		{name: "503, always", answer: times(always, status(503)), want: errAny, check: func(f *faulty, err error) error {
			return errors.Join(transport(503)(f, err), requests(4)(f, err))
		}},
		{name: "500 from the middle on", answer: after(always, status(500)), want: errAny, check: transport(500)},
		{name: "501", answer: times(always, status(501)), want: errAny, check: requests(1)},

		// Redirects.
		{name: "redirect", answer: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				http.Redirect(w, r, "/again", http.StatusTemporaryRedirect)
				return
			}
			f.good(w, r)
		}},
		{name: "redirect elsewhere", answer: times(always, elsewhere("/x"))},
		{name: "redirect elsewhere, cut there", answer: times(always, elsewhere("/x")), setup: func(f *faulty) {
			n := 0
			f.onOther = func(w http.ResponseWriter, r *http.Request) {
				if n++; n == 1 {
					f.cut(w, r, half)
				}
				f.good(w, r)
			}
		}, check: requests(2)},
		{name: "redirect elsewhere, expires", answer: times(always, elsewhere("/x?signature=1")), setup: func(f *faulty) {
			n := 0
			f.onOther = func(w http.ResponseWriter, r *http.Request) {
				switch n++; n {
				case 1:
					f.cut(w, r, half)
				case 2:
					w.WriteHeader(http.StatusForbidden)
				default:
					f.good(w, r)
				}
			}
		}, check: requests(3)},
		{name: "redirect chain", answer: func(f *faulty, n int, w http.ResponseWriter, r *http.Request) {
			if n < 5 {
				http.Redirect(w, r, fmt.Sprintf("/again/%d", n), http.StatusFound)
				return
			}
			elsewhere("/x")(f, w, r)
		}},
		{name: "redirect chain with signed URLs", answer: times(always, elsewhere("/hop?X-Signature=HUSH")), setup: func(f *faulty) {
			f.onOther = func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(fmt.Sprint(r.Header), "HUSH") {
					f.t.Errorf("told of the URL before: %v", r.Header)
				}
				if r.URL.Path == "/hop" {
					http.Redirect(w, r, "/end", http.StatusFound)
					return
				}
				f.good(w, r)
			}
		}},
		{name: "redirect loop", answer: times(always, func(_ *faulty, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/again", http.StatusFound)
		}), want: errAny, check: func(f *faulty, err error) error { return errors.Join(transport(0)(f, err), requests(10)(f, err)) }},
		{name: "redirect elsewhere, password wanted", answer: times(always, elsewhere("/x")), want: errAny, check: unauthorized, setup: func(f *faulty) {
			f.onOther = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
			}
		}},
		{name: "redirect elsewhere, token wanted", answer: times(always, elsewhere("/x")), setup: func(f *faulty) {
			f.onOther = func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == "/token":
					_, _ = io.WriteString(w, `{"token":"for-anybody"}`)
				case r.Header.Get("Authorization") == "Bearer for-anybody":
					f.good(w, r)
				default:
					f.challenge(w, f.other.URL+"/token")
				}
			}
		}},
		{name: "redirect elsewhere, token of ours wanted", answer: times(always, elsewhere("/x")), want: errAny, check: unauthorized, setup: func(f *faulty) {
			// The token server of the registry, asked on behalf of another host, gets no password.
			f.onOther = func(w http.ResponseWriter, _ *http.Request) { f.challenge(w, f.server.URL+"/token") }
		}},
		{name: "redirect to nothing", answer: times(always, status(302)), want: errAny, check: transport(302)},
		{name: "redirect to a file", answer: times(always, status(302, "Location", "file:///etc/passwd")), want: errAny, check: transport(0)},
		{name: "redirect to plain HTTP", answer: times(always, status(302, "Location", "http://registry.test/x")), want: errAny, check: transport(0)},
		{name: "redirect with a password", answer: times(always, func(f *faulty, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", strings.Replace(f.server.URL, "http://", "http://a:b@", 1)+"/v2/")
			w.WriteHeader(302)
		}), want: image.ErrDigest},

		// Nonsense.
		{name: "not HTTP", answer: times(always, answer("SSH-2.0-OpenSSH_9.2\r\n\r\n")), want: errAny, check: transport(0)},
		{name: "header of a mebibyte", answer: times(always, answer("%s", head("200 OK", "X: "+strings.Repeat("x", 1<<20)+"\r\n"))), want: errAny, check: transport(0), twice: 16 << 20},
		{name: "status 299", answer: times(always, status(299)), want: errAny, check: transport(299)},
		{name: "204", answer: times(always, status(204)), want: errAny, check: transport(204)},

		// Connections.
		{name: "refused in the middle", answer: once(func(f *faulty, w http.ResponseWriter, r *http.Request) {
			f.refuse.Store(2)
			f.cut(w, r, half)
		})},
		{name: "refused from the middle on", answer: once(func(f *faulty, w http.ResponseWriter, r *http.Request) {
			f.refuse.Store(always)
			f.cut(w, r, half)
		}), want: errAny, check: transport(0)},
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	testFaults(t, false)
}

// TestFaultsWithCache wants the same when the layer comes through a cache.
func TestFaultsWithCache(t *testing.T) {
	t.Parallel()
	testFaults(t, true)
}

// testFaults: whatever goes wrong, the layer arrives or there is a typed error, in seconds, little is downloaded twice, no credential
// gets to another host, and no connection stays behind.
func testFaults(t *testing.T, cached bool) {
	if n := len(faults()); n < 80 {
		t.Errorf("only %d faults", n)
	}
	for _, tc := range faults() {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFaulty(t, tc.answer)
			if tc.setup != nil {
				tc.setup(f)
			}
			opts, transport := f.options()
			if cached {
				opts.Cache = newCache(t)
				opts.Registry.RetryBudget = 600 * time.Millisecond // the other run has the patience
			}
			if cached && tc.name == "chunked, endless" {
				tc.want = nil // the cache reads no further than the blob goes, and what there is has its digest
			}
			opts.Registry.RetryBudget = max(opts.Registry.RetryBudget, tc.budget)
			opts.Registry.IdleTimeout = cmp.Or(tc.idle, opts.Registry.IdleTimeout)
			started := time.Now()
			n, err := f.pull(t.Context(), opts)
			took := time.Since(started)
			if (err == nil) != (tc.want == nil) || (tc.want != nil && tc.want != errAny && !errors.Is(err, tc.want)) {
				t.Errorf("%d bytes, %v; want %v", n, err, tc.want)
			}
			if tc.check != nil {
				if wrong := tc.check(f, err); wrong != nil {
					t.Errorf("%v: %v", wrong, err)
				}
			}
			if err != nil && !isTyped(err) {
				t.Errorf("error has no type: %#v", err)
			}
			if took > 15*time.Second {
				t.Errorf("took %s", took)
			}
			twice := f.received.Load() - n - 64<<10 // for headers
			if limit := max(tc.twice, 1<<20); twice > limit {
				t.Errorf("%d bytes were downloaded twice, want at most %d (ranges from %d)", twice, limit, f.starts)
			}
			transport.CloseIdleConnections()
			for deadline := time.Now().Add(5 * time.Second); f.open.Load() > 0; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Errorf("%d connections stay open", f.open.Load())
					break
				}
			}
			t.Logf("%s, %d requests, %d bytes twice: %v", took.Round(time.Millisecond), f.requests.Load(), max(twice, 0), err)
		})
	}
}

func newCache(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.Open(filepath.Join(t.TempDir(), "cache"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// isTyped reports whether err is one that Open and Layer.Open promise.
func isTyped(err error) bool {
	_, transport := errors.AsType[*image.TransportError](err)
	_, unauthorized := errors.AsType[*image.UnauthorizedError](err)
	return transport || unauthorized || errors.Is(err, image.ErrDigest) || errors.Is(err, fs.ErrNotExist)
}

// pull opens the image and reads its layer.
func (f *faulty) pull(ctx context.Context, opts *image.Options) (int64, error) {
	img, err := image.Open(ctx, "docker://"+f.host()+"/a:v1", opts)
	if err != nil {
		f.t.Fatal(err)
	}
	rc, err := img.Layers()[0].Open(ctx)
	if err != nil {
		return 0, err
	}
	defer rc.Close()
	return io.Copy(io.Discard, rc)
}

// TestCancelledAnywhere: a context ends a pull in whatever state it is, at once, and leaves no goroutine behind.
func TestCancelledAnywhere(t *testing.T) {
	for name, answer := range map[string]func(f *faulty, n int, w http.ResponseWriter, r *http.Request){
		"stall before the answer": times(always, func(_ *faulty, _ http.ResponseWriter, r *http.Request) { stall(r) }),
		"stall in the body":       times(always, func(f *faulty, w http.ResponseWriter, r *http.Request) { f.begin(w, r, half); stall(r) }),
		"waiting to resume":       after(always, status(503, "Retry-After", "60")),
		"waiting to begin":        times(always, status(503, "Retry-After", "60")),
		"reading over": after(always, func(f *faulty, w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			f.begin(w, r, 1000)
			stall(r)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFaulty(t, answer)
			opts, transport := f.options()
			opts.Registry.IdleTimeout, opts.Registry.RetryBudget = time.Minute, 10*time.Minute
			before := runtime.NumGoroutine()
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(400*time.Millisecond, cancel)
			started := time.Now()
			_, err := f.pull(ctx, opts)
			if !errors.Is(err, context.Canceled) || time.Since(started) > 3*time.Second {
				t.Errorf("%v after %s", err, time.Since(started))
			}
			transport.CloseIdleConnections()
			for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Errorf("%d goroutines where there were %d", runtime.NumGoroutine(), before)
					break
				}
			}
		})
	}
}
