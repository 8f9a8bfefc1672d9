package hkp_test

import (
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hpcimg/sign"
	"hpcimg/sign/hkp"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t testing.TB, name string) *sign.Key {
	t.Helper()
	k, err := sign.GenerateKey(&sign.KeyOptions{Name: name, Email: "a@example.org"})
	must(t, err)
	return k
}

func armoured(t testing.TB, keys ...*sign.Key) string {
	t.Helper()
	var b bytes.Buffer
	for _, k := range keys {
		must(t, k.ExportPublic(&b, true))
	}
	return b.String()
}

func serve(t testing.TB, h http.HandlerFunc) *hkp.Client {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	c, err := hkp.New(server.URL, &hkp.Options{Timeout: 500 * time.Millisecond, Token: "secret"})
	must(t, err)
	return c
}

// TestServer pushes, searches and gets.
func TestServer(t *testing.T) {
	store := map[string]string{}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("no token")
		}
		switch q := r.URL.Query(); {
		case r.Method == http.MethodPost && r.URL.Path == "/pks/add":
			ring, err := sign.ReadKeyring(strings.NewReader(r.FormValue("keytext")))
			must(t, err)
			for _, k := range ring.Keys() {
				if k.HasSecret() {
					t.Error("secret half sent")
				}
				store[string(k.Fingerprint())] = armoured(t, k)
			}
		case q.Get("op") == "get":
			text, ok := store[strings.TrimPrefix(q.Get("search"), "0x")]
			if !ok {
				http.NotFound(w, r)
				return
			}
			w.Write([]byte(text))
		case q.Get("op") == "index":
			w.Write([]byte("info:1:1\n"))
			for fp := range store {
				w.Write([]byte("pub:" + fp + ":22:256:1767323045::\nuid:A%20%3Ca@example.org%3E:1767323045::\n"))
			}
		default:
			http.Error(w, "what?", http.StatusBadRequest)
		}
	})
	k := newKey(t, "A")
	if _, err := c.Get(t.Context(), k.Fingerprint()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: %v", err)
	}
	must(t, c.Push(t.Context(), k))
	got, err := c.Get(t.Context(), k.Fingerprint())
	must(t, err)
	if got.Fingerprint() != k.Fingerprint() || got.HasSecret() {
		t.Errorf("%v", got)
	}
	entries, err := c.Search(t.Context(), "A")
	must(t, err)
	if len(entries) != 1 || entries[0].Fingerprint != k.Fingerprint() || entries[0].Identities[0] != "A <a@example.org>" || entries[0].Created.Year() != 2026 {
		t.Errorf("%+v", entries)
	}
	if _, err := c.Get(t.Context(), k.Fingerprint()[24:]); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("short key ID: %v", err)
	}
}

// TestHostileServer has a server answer other keys, too much, too slowly or from elsewhere.
func TestHostileServer(t *testing.T) {
	wanted, other := newKey(t, "wanted"), newKey(t, "other")
	for name, h := range map[string]http.HandlerFunc{
		"another key": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(armoured(t, other))) },
		"nothing":     func(http.ResponseWriter, *http.Request) {},
		"no key":      func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>\x1b[31m")) },
		"error": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "\x1b[31mno", http.StatusInternalServerError)
		},
		"redirects": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.String()+"x", http.StatusFound)
		},
		"other scheme": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "ftp://example.org/", http.StatusFound)
		},
		"endless": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		},
		"stalled": func(w http.ResponseWriter, r *http.Request) {
			w.Write([]byte("-----BEGIN"))
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"silent": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			_, err := serve(t, h).Get(t.Context(), wanted.Fingerprint())
			if err == nil || time.Since(begin) > 3*time.Second || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("%q after %v", err, time.Since(begin))
			}
		})
	}
	// Among others, the right one is found.
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(armoured(t, other, wanted))) })
	k, err := c.Get(t.Context(), wanted.Fingerprint())
	must(t, err)
	if k.Fingerprint() != wanted.Fingerprint() {
		t.Errorf("%v", k)
	}
}

// TestTokenStays redirects to another host, which must not see the token.
func TestTokenStays(t *testing.T) {
	k := newKey(t, "A")
	var seen string
	second := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Get("Authorization")
		w.Write([]byte(armoured(t, k)))
	}))
	t.Cleanup(second.Close)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, second.URL, http.StatusFound) })
	_, err := c.Get(t.Context(), k.Fingerprint())
	must(t, err)
	if seen != "" {
		t.Errorf("sent %q", seen)
	}
	for _, server := range []string{"http://keys.example.org", "hkp://keys.example.org"} {
		if _, err := hkp.New(server, &hkp.Options{Token: "secret"}); err == nil {
			t.Errorf("%s gets a token in the clear", server)
		}
	}
}

func TestNew(t *testing.T) {
	for server, ok := range map[string]bool{
		"https://keys.example.org": true, "hkps://keys.example.org": true, "hkp://keys.example.org": true, "http://keys.example.org/sub": true,
		"keys.example.org": false, "ftp://keys.example.org": false, "https://": false, "https://user:pass@keys.example.org": false, "https://k.example.org/?q": false, "": false, "%": false,
	} {
		if _, err := hkp.New(server, nil); (err == nil) != ok {
			t.Errorf("%q: %v", server, err)
		}
	}
}

// FuzzIndex wants names without loss of the fingerprint: what is a fingerprint in an entry is one in the text.
func FuzzIndex(f *testing.F) {
	f.Add("info:1:1\npub:12045C8C0B1004D058DE4BEDA20C27EE7FF7BA84:1:2048:1600000000::r\nuid:A%20B:::\n")
	f.Add("pub:::::\nuid:%zz\nuid:\n")
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := hkp.ParseIndex(text)
		if err != nil && !errors.Is(err, sign.ErrLimit) {
			t.Error(err)
		}
		flat := strings.ToUpper(strings.ReplaceAll(text, " ", ""))
		for _, e := range entries {
			if e.Fingerprint != "" && !strings.Contains(flat, string(e.Fingerprint)) {
				t.Errorf("%q is not in the text", e.Fingerprint)
			}
			if e.Bits < 0 || e.Created.Year() > 2600 {
				t.Errorf("%+v", e)
			}
		}
	})
}
