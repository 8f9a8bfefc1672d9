package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/image"
	"hpcimg/image/registry"
)

// attach pushes a manifest of a type that refers to a subject.
func attach(t testing.TB, c *registry.Client, repo, artifactType, text string, subject image.Descriptor) image.Descriptor {
	t.Helper()
	config, err := c.PutBlob(t.Context(), repo+":x", ocispec.MediaTypeEmptyJSON, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	config.MediaType = artifactType // where go-containerregistry's registry looks
	m := image.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType, Config: config, Layers: []image.Descriptor{config}, Subject: &subject,
		Annotations: map[string]string{"text": text},
	}
	m.SchemaVersion = 2
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.PutManifest(t.Context(), repo+"@"+digest.FromBytes(raw).String(), m.MediaType, raw)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestReferrers attaches and lists, at registries that list referrers themselves and at those that do not.
func TestReferrers(t *testing.T) {
	hosts := map[string]string{"docker-registry": program(t, false)}
	for name, supported := range map[string]bool{"ggcr with the API": true, "ggcr without": false} {
		s := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(supported)))
		t.Cleanup(s.Close)
		hosts[name] = strings.TrimPrefix(s.URL, "http://")
	}
	for name, host := range hosts {
		t.Run(name, func(t *testing.T) {
			c := registry.NewClient(nil)
			repo := "docker://" + host + "/a/b"
			subject, err := registry.Push(t.Context(), build(t, "subject", []byte("layer")), repo+":v1", nil)
			if err != nil {
				t.Fatal(err)
			}
			ref := repo + "@" + subject.Digest.String()
			if list, err := c.Referrers(t.Context(), ref, ""); err != nil || len(list) > 0 {
				t.Fatalf("of nothing: %v, %v", list, err)
			}
			sig := attach(t, c, repo, "application/x.signature", "one", subject)
			sbom := attach(t, c, repo, "application/x.sbom", "two", subject)
			if again := attach(t, c, repo, "application/x.sbom", "two", subject); again.Digest != sbom.Digest {
				t.Fatal("not the same")
			}
			for artifactType, want := range map[string][]digest.Digest{
				"": {sig.Digest, sbom.Digest}, "application/x.sbom": {sbom.Digest}, "application/x.none": nil,
			} {
				list, err := c.Referrers(t.Context(), ref, artifactType)
				if err != nil {
					t.Fatal(err)
				}
				var got []digest.Digest
				for _, d := range list {
					got = append(got, d.Digest)
				}
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("of type %q: %v, want %v", artifactType, got, want)
				}
			}
			if _, err := c.Referrers(t.Context(), repo+":v1", ""); !errors.Is(err, image.ErrReference) {
				t.Errorf("of a tag: %v", err)
			}
		})
	}
}

// TestReferrersAtOnce: of several who attach at once to an index under a tag, none is lost without being told.
func TestReferrersAtOnce(t *testing.T) {
	host := newServer(t).host
	repo := "docker://" + host + "/a/b"
	subject, err := registry.Push(t.Context(), build(t, "subject", []byte("layer")), repo+":v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() { attach(t, registry.NewClient(nil), repo, "application/x", fmt.Sprint(i), subject) })
	}
	wg.Wait()
	list, err := registry.NewClient(nil).Referrers(t.Context(), repo+"@"+subject.Digest.String(), "")
	if err != nil || len(list) == 0 {
		t.Errorf("%d listed, %v", len(list), err)
	}
}

// TestHostileReferrers: lists that are too long, go round in circles or are none end in typed errors.
func TestHostileReferrers(t *testing.T) {
	d := digest.FromString("subject")
	entry := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":5}`, ocispec.MediaTypeImageManifest, d)
	index := func(entries string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, ocispec.MediaTypeImageIndex, entries)
	}
	many := strings.TrimSuffix(strings.Repeat(entry+",", 4000), ",")
	for _, tc := range []struct {
		name, body, link, contentType string
		want                          error
		count                         int
	}{
		{"good", index(entry), "", ocispec.MediaTypeImageIndex, nil, 1},
		{"empty", index(""), "", ocispec.MediaTypeImageIndex, nil, 0},
		{"circle", index(entry), "<SELF>; rel=\"next\"", ocispec.MediaTypeImageIndex, errAny, 0},
		{"pages without end", index(many), "<NEXT>; rel=\"next\"", ocispec.MediaTypeImageIndex, image.ErrLimit, 0},
		{"to another host", index(entry), "<http://127.0.0.9:1/v2/>; rel=\"next\"", ocispec.MediaTypeImageIndex, nil, 1},
		{"5 MiB", strings.Repeat(" ", 5<<20), "", ocispec.MediaTypeImageIndex, image.ErrLimit, 0},
		{"a manifest", `{"schemaVersion":2,"config":` + entry + `,"layers":[]}`, "", ocispec.MediaTypeImageIndex, image.ErrFormat, 0},
		{"not JSON", "{", "", ocispec.MediaTypeImageIndex, image.ErrFormat, 0},
		{"digest that climbs", index(strings.Replace(entry, d.String(), "sha256:../../x", 1)), "", ocispec.MediaTypeImageIndex, image.ErrFormat, 0},
		{"negative size", index(strings.Replace(entry, ":5", ":-5", 1)), "", ocispec.MediaTypeImageIndex, image.ErrFormat, 0},
		{"a page", "<html>", "", "text/html", nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := 0
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == "/v2/":
				case strings.Contains(r.URL.Path, "/referrers/"):
					n++
					link := strings.NewReplacer("SELF", r.URL.RequestURI(), "NEXT", fmt.Sprintf("%s?n=%d", r.URL.Path, n)).Replace(tc.link)
					w.Header().Set("Link", link)
					w.Header().Set("Content-Type", tc.contentType)
					_, _ = io.WriteString(w, tc.body)
				default:
					w.WriteHeader(http.StatusNotFound)
				}
			}))
			t.Cleanup(s.Close)
			ref := "docker://" + strings.TrimPrefix(s.URL, "http://") + "/a/b@" + d.String()
			list, err := registry.NewClient(nil).Referrers(t.Context(), ref, "")
			if (err == nil) != (tc.want == nil) || tc.want != nil && tc.want != errAny && !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if len(list) != tc.count {
				t.Errorf("%d listed", len(list))
			}
		})
	}
}

// errAny stands for any error in tables.
var errAny = errors.New("any")

// FuzzReferrers: what is accepted of a list is nothing but descriptors that are safe to use.
func FuzzReferrers(f *testing.F) {
	d := digest.FromString("subject")
	f.Add(fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":%q,"size":5,"artifactType":"c/d"}]}`, d))
	f.Add([]byte(`{"schemaVersion":2,"manifests":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		index, err := image.ParseIndex(raw, ocispec.MediaTypeImageIndex, nil)
		if err != nil {
			if !errors.Is(err, image.ErrFormat) && !errors.Is(err, image.ErrLimit) && !errors.Is(err, errors.ErrUnsupported) {
				t.Fatalf("error without a type: %v", err)
			}
			return
		}
		for _, m := range index.Manifests {
			if m.Digest.Validate() != nil || m.Size < 0 || m.MediaType == "" {
				t.Fatalf("%q gives %+v", raw, m)
			}
		}
		again, err := json.Marshal(index)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := image.ParseIndex(again, ocispec.MediaTypeImageIndex, nil); err != nil && !errors.Is(err, image.ErrLimit) {
			t.Fatalf("%q is accepted, and %q, which says the same, is not: %v", raw, again, err)
		}
	})
}
