package registry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hpcimg/image"
	"hpcimg/image/registry"
)

const registriesConf = `
unqualified-search-registries = ["docker.io"]
short-name-mode = "enforcing"

[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "mirror.site.example/docker"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "cache.site.example:5000"
insecure = true

[[registry]]
location = "docker.io/library/evil"
blocked = true

[[registry]]
prefix = "*.lab.example"
location = "one.lab.example/all"
mirror-by-digest-only = true
[[registry.mirror]]
location = "two.example"

[[registry]]
prefix = "old.example/team"
location = "new.example/group/team"

[[registry]]
location = "plain.example:80"
insecure = true

[aliases]
"ubuntu" = "docker.io/library/ubuntu"
`

func TestMirrorsOfAFile(t *testing.T) {
	mirrors, err := registry.ParseMirrors([]byte(registriesConf))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		host, repository string
		want             []image.Place
	}{
		{"docker.io", "library/python", []image.Place{
			{Host: "mirror.site.example", Repository: "docker/library/python", Use: image.PlaceForDigests},
			{Host: "cache.site.example:5000", Repository: "library/python", PlainHTTP: true},
			{Host: "docker.io", Repository: "library/python"},
		}},
		{"docker.io", "library/evil2", []image.Place{
			{Host: "mirror.site.example", Repository: "docker/library/evil2", Use: image.PlaceForDigests},
			{Host: "cache.site.example:5000", Repository: "library/evil2", PlainHTTP: true},
			{Host: "docker.io", Repository: "library/evil2"},
		}},
		{"a.lab.example", "x/y", []image.Place{
			{Host: "two.example", Repository: "x/y", Use: image.PlaceForDigests},
			{Host: "one.lab.example", Repository: "all/x/y"},
		}},
		{"lab.example", "x", nil},
		{"old.example", "team/tool", []image.Place{{Host: "new.example", Repository: "group/team/tool"}}},
		{"old.example", "team", []image.Place{{Host: "new.example", Repository: "group/team"}}},
		{"old.example", "teams/tool", nil},
		{"plain.example:80", "x", []image.Place{{Host: "plain.example:80", Repository: "x", PlainHTTP: true}}},
		{"other.example", "x", nil},
	} {
		got, err := mirrors(tc.host, tc.repository)
		if err != nil {
			t.Errorf("%s/%s: %v", tc.host, tc.repository, err)
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s/%s:\n%s", tc.host, tc.repository, d)
		}
	}
	for _, repository := range []string{"library/evil", "library/evil/more"} {
		if _, err := mirrors("docker.io", repository); !errors.Is(err, registry.ErrBlocked) || !strings.Contains(err.Error(), "registries.conf") {
			t.Errorf("%s: %v", repository, err)
		}
	}
	// The error reaches whoever opens the image.
	_, err = image.Open(t.Context(), "docker://docker.io/library/evil:1", &image.Options{Registry: image.RegistryOptions{Mirrors: mirrors}})
	if !errors.Is(err, registry.ErrBlocked) {
		t.Errorf("opening a blocked image: %v", err)
	}
}

func TestMirrorsFilesInOrder(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "registries.conf"), filepath.Join(dir, "10-site.conf")
	write(t, first, "[[registry]]\nlocation = \"a.example\"\nblocked = true\n[[registry]]\nlocation = \"b.example\"\nblocked = true\n")
	write(t, second, "[[registry]]\nlocation = \"a.example\"\ninsecure = true\n")
	mirrors := registry.Mirrors(filepath.Join(dir, "none"), first, second)
	if got, err := mirrors("a.example", "x"); err != nil || len(got) != 1 || !got[0].PlainHTTP {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := mirrors("b.example", "x"); !errors.Is(err, registry.ErrBlocked) {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(second, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := registry.Mirrors(second)("a.example", "x"); err == nil || !strings.Contains(err.Error(), second) {
		t.Errorf("2 MiB: %v", err)
	}
}

func badMirrors() map[string]string {
	return map[string]string{
		"not TOML":           "[[registry",
		"version 1":          "[registries.search]\nregistries = [\"docker.io\"]\n",
		"no location":        "[[registry]]\nblocked = true\n",
		"no host":            "[[registry]]\nlocation = \"team/tool\"\n",
		"with a tag":         "[[registry]]\nlocation = \"a.example/x:v1\"\n",
		"with a digest":      "[[registry]]\nlocation = \"a.example/x@sha256:" + strings.Repeat("a", 64) + "\"\n",
		"URL":                "[[registry]]\nlocation = \"https://a.example\"\n",
		"climbing":           "[[registry]]\nlocation = \"a.example/../b\"\n",
		"spaces":             "[[registry]]\nlocation = \"a.example b\"\n",
		"user":               "[[registry]]\nlocation = \"me:secret@a.example\"\n",
		"path after *":       "[[registry]]\nprefix = \"*.a.example/x\"\n",
		"* inside":           "[[registry]]\nprefix = \"a.*.example\"\n",
		"mirror without one": "[[registry]]\nlocation = \"a.example\"\n[[registry.mirror]]\ninsecure = true\n",
		"use":                "[[registry]]\nlocation = \"a.example\"\n[[registry.mirror]]\nlocation = \"b.example\"\npull-from-mirror = \"some\"\n",
		"two uses": "[[registry]]\nlocation = \"a.example\"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = \"b.example\"\n" +
			"pull-from-mirror = \"all\"\n",
		"twice":        "[[registry]]\nlocation = \"a.example\"\n[[registry]]\nlocation = \"a.example\"\n",
		"wrong type":   "[[registry]]\nlocation = 5\n",
		"many":         "[[registry]]\nlocation = \"a.example\"\n" + strings.Repeat("[[registry.mirror]]\nlocation=\"b.example\"\n", 11_000),
		"empty prefix": "[[registry]]\nprefix = \"*.\"\n",
	}
}

func TestBadMirrors(t *testing.T) {
	for name, text := range badMirrors() {
		if _, err := registry.ParseMirrors([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzMirrors: whatever file is accepted, it leads each repository to places that exist as names, the last of them a registry's own.
func FuzzMirrors(f *testing.F) {
	f.Add(registriesConf, "docker.io", "library/python")
	for _, text := range badMirrors() {
		if len(text) < 1000 {
			f.Add(text, "a.example", "x")
		}
	}
	f.Fuzz(func(t *testing.T, text, host, repository string) {
		mirrors, err := registry.ParseMirrors([]byte(text))
		if err != nil {
			return
		}
		if r, err := image.ParseReference("docker://" + host + "/" + repository); err != nil || r.Host != host || r.Repository != repository {
			return
		}
		places, err := mirrors(host, repository)
		if err != nil {
			return
		}
		for i, p := range places {
			r, err := image.ParseReference("docker://" + p.Host + "/" + p.Repository)
			if err != nil || r.Host != p.Host || r.Repository != p.Repository || r.Tag != "latest" {
				t.Errorf("%s/%s leads to %+v, which is read as %+v, %v", host, repository, p, r, err)
			}
			if i == len(places)-1 && p.Use != image.PlaceForAll {
				t.Errorf("%s/%s ends at %+v", host, repository, p)
			}
		}
	})
}

// place is a registry that notes what it is asked for.
type place struct {
	*httptest.Server
	image  *image.Image
	answer func(w http.ResponseWriter, r *http.Request) bool // true if it has answered

	mu    sync.Mutex
	asked []string // "GET blob", "GET tag", "GET digest"
	auth  map[string]bool
	given int
}

func newPlace(t *testing.T, img *image.Image) *place {
	t.Helper()
	p := &place{image: img, auth: map[string]bool{}}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *place) host() string { return strings.TrimPrefix(p.URL, "http://") }

func (p *place) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	what := "digest"
	switch {
	case r.URL.Path == "/v2/":
		what = "ping"
	case strings.Contains(r.URL.Path, "/blobs/"):
		what = "blob"
	case !strings.Contains(name, ":"):
		what = "tag"
	}
	p.mu.Lock()
	p.asked = append(p.asked, what)
	p.auth[r.Header.Get("Authorization")] = true
	p.mu.Unlock()
	switch {
	case what == "ping" && r.Header.Get("Authorization") == "":
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	case p.answer != nil && p.answer(w, r):
	case what == "tag" || what == "digest":
		w.Header().Set("Content-Type", p.image.Descriptor().MediaType)
		_, _ = w.Write(p.image.RawManifest())
	case what == "blob":
		p.blob(w, r, name)
	}
}

func (p *place) blob(w http.ResponseWriter, r *http.Request, name string) {
	for _, d := range append(p.image.Manifest().Layers, p.image.Manifest().Config) {
		if d.Digest.String() != name {
			continue
		}
		rc, err := p.image.OpenBlob(r.Context(), d)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		raw, _ := io.ReadAll(rc)
		_ = rc.Close()
		from := 0
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(raw)-1, len(raw)))
			w.WriteHeader(http.StatusPartialContent)
		}
		n, _ := w.Write(raw[from:])
		p.mu.Lock()
		p.given += n
		p.mu.Unlock()
		return
	}
	w.WriteHeader(http.StatusNotFound)
}

func (p *place) count(what string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.asked {
		if a == what {
			n++
		}
	}
	return n
}

// pullFrom reads an image with all layers from the last place, by way of the others.
func pullFrom(ctx context.Context, img *image.Image, digest bool, places ...image.Place) error {
	last := places[len(places)-1]
	ref := "docker://" + last.Host + "/a/b:v1"
	if digest {
		ref = "docker://" + last.Host + "/a/b@" + img.Descriptor().Digest.String()
	}
	got, err := image.Open(ctx, ref, &image.Options{Registry: image.RegistryOptions{
		Mirrors: func(string, string) ([]image.Place, error) { return places, nil },
		Credentials: func(_ context.Context, host string) (image.Credential, error) {
			return image.Credential{Username: "me", Password: "for " + host}, nil
		},
	}})
	if err != nil {
		return err
	}
	for i, l := range got.Layers() {
		rc, err := l.Open(ctx)
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, rc)
		rc.Close()
		if err != nil || n != img.Layers()[i].Descriptor.Size {
			return fmt.Errorf("%d bytes: %w", n, err)
		}
	}
	return nil
}

func mirrored(t *testing.T) *image.Image {
	return build(t, "mirrored", make([]byte, 300_000), make([]byte, 4096))
}

func TestMirrorIsPreferred(t *testing.T) {
	img := mirrored(t)
	mirror, origin := newPlace(t, img), newPlace(t, img)
	if err := pullFrom(t.Context(), img, false, image.Place{Host: mirror.host(), Repository: "m/b"}, image.Place{Host: origin.host(), Repository: "a/b"}); err != nil {
		t.Fatal(err)
	}
	if len(origin.asked) > 0 || mirror.count("blob") != 3 {
		t.Errorf("the origin was asked %v, the mirror %v", origin.asked, mirror.asked)
	}
	for auth := range mirror.auth {
		if auth != "" && auth != basicFor(mirror.host()) {
			t.Errorf("the mirror got %q", auth)
		}
	}
}

func basicFor(host string) string {
	r := &http.Request{Header: http.Header{}}
	r.SetBasicAuth("me", "for "+host)
	return r.Header.Get("Authorization")
}

// TestMirrorUses: a place is only asked for what it is there for.
func TestMirrorUses(t *testing.T) {
	img := mirrored(t)
	digests, tags, origin := newPlace(t, img), newPlace(t, img), newPlace(t, img)
	places := []image.Place{
		{Host: digests.host(), Repository: "x", Use: image.PlaceForDigests},
		{Host: tags.host(), Repository: "x", Use: image.PlaceForTags},
		{Host: origin.host(), Repository: "a/b"},
	}
	if err := pullFrom(t.Context(), img, false, places...); err != nil {
		t.Fatal(err)
	}
	if digests.count("tag") > 0 || digests.count("blob") != 3 || tags.count("tag") != 1 || tags.count("blob") > 0 || len(origin.asked) > 0 {
		t.Errorf("asked: %v, %v, %v", digests.asked, tags.asked, origin.asked)
	}
}

// TestMirrorTrouble: whatever is wrong with a mirror, the image comes, right, from the next place; and a mirror that failed is not asked
// again and again. No credential reaches another host than its own.
func TestMirrorTrouble(t *testing.T) {
	img := mirrored(t)
	other := build(t, "other", make([]byte, 5000))
	only := func(what string, do func(w http.ResponseWriter, r *http.Request)) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if what != "" && !strings.Contains(r.URL.Path, what) {
				return false
			}
			do(w, r)
			return true
		}
	}
	status := func(code int) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for _, tc := range []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request) bool
		most   int // requests that the mirror may get
	}{
		{"nothing there", only("", status(404)), 10},
		{"forbidden", only("", status(403)), 4},
		{"broken", only("", status(500)), 8},
		{"no blobs", only("/blobs/", status(404)), 10},
		{"broken for blobs", only("/blobs/", status(503)), 8},
		{"busy for an hour", only("", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		}), 4},
		{"a page", only("/manifests/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }), 8},
		{"another manifest", only("/manifests/", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(other.RawManifest()) }), 8},
		{"cut in the middle", only("/blobs/", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "300000")
			_, _ = w.Write(make([]byte, 100_000))
			panic(http.ErrAbortHandler)
		}), 8},
		{"redirect to itself", only("/blobs/", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }), 60},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mirror, origin := newPlace(t, img), newPlace(t, img)
			mirror.Config.ErrorLog = nil
			mirror.answer = tc.answer
			err := pullFrom(t.Context(), img, true, image.Place{Host: mirror.host(), Repository: "m"}, image.Place{Host: origin.host(), Repository: "a/b"})
			if err != nil {
				t.Fatal(err)
			}
			if n := len(mirror.asked); n > tc.most || n == 0 {
				t.Errorf("the mirror was asked %d times: %v", n, mirror.asked)
			}
			for _, p := range []*place{mirror, origin} {
				for auth := range p.auth {
					if auth != "" && auth != basicFor(p.host()) {
						t.Errorf("%s got a credential of another host", p.host())
					}
				}
			}
		})
	}
}

// TestMirrorLies: what a mirror gives for a blob is compared with its digest.
func TestMirrorLies(t *testing.T) {
	img := mirrored(t)
	mirror, origin := newPlace(t, img), newPlace(t, img)
	size := img.Layers()[0].Descriptor.Size
	mirror.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, img.Layers()[0].Descriptor.Digest.String()) {
			return false
		}
		_, _ = w.Write([]byte(strings.Repeat("x", int(size))))
		return true
	}
	err := pullFrom(t.Context(), img, true, image.Place{Host: mirror.host(), Repository: "m"}, image.Place{Host: origin.host(), Repository: "a/b"})
	if !errors.Is(err, image.ErrDigest) {
		t.Errorf("%v", err)
	}
}

// TestNoPlaceAnswers wants the error of the registry itself, with what the mirrors said.
func TestNoPlaceAnswers(t *testing.T) {
	img := mirrored(t)
	mirror, origin := newPlace(t, img), newPlace(t, img)
	mirror.answer = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusTeapot); return true }
	origin.answer = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusConflict); return true }
	err := pullFrom(t.Context(), img, false, image.Place{Host: mirror.host(), Repository: "m"}, image.Place{Host: origin.host(), Repository: "a/b"})
	te, ok := errors.AsType[*image.TransportError](err)
	if !ok || te.Status != http.StatusConflict || te.Host != origin.host() || !strings.Contains(err.Error(), mirror.host()) {
		t.Errorf("%v", err)
	}
	// A place that is no name is refused before anybody is asked.
	err = pullFrom(t.Context(), img, false, image.Place{Host: "../x", Repository: "m"}, image.Place{Host: origin.host(), Repository: "a/b"})
	if !errors.Is(err, image.ErrReference) {
		t.Errorf("%v", err)
	}
}
