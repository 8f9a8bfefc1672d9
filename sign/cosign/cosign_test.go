package cosign_test

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/image"
	"hpcimg/image/registry"
	"hpcimg/sign"
	"hpcimg/sign/cosign"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newRegistry starts a registry and returns the reference of a repository in it.
func newRegistry(t testing.TB, opts ...ggcr.Option) (*registry.Client, string) {
	t.Helper()
	server := httptest.NewServer(ggcr.New(append(opts, ggcr.Logger(log.New(io.Discard, "", 0)))...))
	t.Cleanup(server.Close)
	return registry.NewClient(nil), "docker://" + server.Listener.Addr().String() + "/hello"
}

// push stores something that can be signed and returns its reference by digest.
func push(t testing.TB, c *registry.Client, repo, text string) string {
	t.Helper()
	d, err := c.PutBlob(t.Context(), repo+":1", ocispec.MediaTypeImageConfig, []byte(text))
	must(t, err)
	m := image.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: d, Layers: []image.Descriptor{}}
	m.SchemaVersion = 2
	raw, err := json.Marshal(m)
	must(t, err)
	d, err = c.PutManifest(t.Context(), repo+":1", m.MediaType, raw)
	must(t, err)
	return repo + "@" + d.Digest.String()
}

func newKey(t testing.TB, kind sign.KeyType) crypto.Signer {
	t.Helper()
	k, err := sign.GeneratePrivateKey(kind)
	must(t, err)
	return k
}

func public(keys ...crypto.Signer) []crypto.PublicKey {
	var list []crypto.PublicKey
	for _, k := range keys {
		list = append(list, k.Public())
	}
	return list
}

func TestSignAndVerify(t *testing.T) {
	for _, kind := range []sign.KeyType{sign.KeyECDSA, sign.KeyEd25519, sign.KeyRSA} {
		key, stranger := newKey(t, kind), newKey(t, kind)
		for _, formats := range [][]cosign.Format{nil, {cosign.FormatBundle}, {cosign.FormatTag, cosign.FormatBundle}} {
			c, repo := newRegistry(t, ggcr.WithReferrersSupport(kind == sign.KeyEd25519))
			ref := push(t, c, repo, "one")
			other := push(t, c, repo, "other")
			if _, err := cosign.Verify(t.Context(), c, ref, public(key)); !errors.Is(err, cosign.ErrUnsigned) {
				t.Errorf("before: %v", err)
			}
			d, err := cosign.Sign(t.Context(), c, ref, key, &cosign.Options{Formats: formats, Annotations: map[string]string{"build": "7"}})
			must(t, err)
			_, err = cosign.Sign(t.Context(), c, ref, stranger, &cosign.Options{Formats: formats})
			must(t, err)
			result, err := cosign.Verify(t.Context(), c, ref, public(key))
			must(t, err)
			if want := 2 * max(1, len(formats)); len(result.Signatures) != want || len(result.Keys()) != 1 || result.Digest != d.Digest {
				t.Errorf("%v: %+v", formats, result)
			}
			for _, s := range result.Signatures { // in any order
				if mine := s.Key != nil; mine != (s.Annotations["build"] == "7") || mine != (s.Err == nil) {
					t.Errorf("%+v", s)
				}
			}
			if result, err := cosign.Verify(t.Context(), c, ref, public(key, stranger)); err != nil || len(result.Keys()) != 2 {
				t.Errorf("both: %v", err)
			}
			for name, keys := range map[string][]crypto.PublicKey{"nobody": nil, "somebody else": public(newKey(t, sign.KeyECDSA))} {
				if _, err := cosign.Verify(t.Context(), c, ref, keys); !errors.Is(err, cosign.ErrUnsigned) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, err := cosign.Verify(t.Context(), c, other, public(key)); !errors.Is(err, cosign.ErrUnsigned) {
				t.Errorf("another image: %v", err)
			}
		}
	}
}

// loadReal fills a repository with what cosign made.
func loadReal(t testing.TB, c *registry.Client, repo string, change func(name string, data []byte) []byte) string {
	t.Helper()
	dir := filepath.Join("testdata", "real")
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
		_, err = c.PutBlob(t.Context(), repo+":x", "", data)
		must(t, err)
		var m image.Manifest
		if json.Unmarshal(data, &m) == nil && m.MediaType != "" && m.Config.Digest != "" {
			_, err = c.PutManifest(t.Context(), repo, m.MediaType, data)
			must(t, err)
		}
	}
	var tags map[string]string
	data, err := os.ReadFile(filepath.Join(dir, "tags.json"))
	must(t, err)
	must(t, json.Unmarshal(data, &tags))
	for tag, d := range tags {
		data, err := os.ReadFile(filepath.Join(dir, strings.TrimPrefix(d, "sha256:")))
		must(t, err)
		if change != nil {
			data = change(tag, data)
		}
		var m image.Manifest
		must(t, json.Unmarshal(data, &m))
		_, err = c.PutManifest(t.Context(), repo+":"+tag, m.MediaType, data)
		must(t, err)
	}
	return repo + "@" + tags["1"]
}

// TestReal verifies what cosign itself made, in both formats, and opens its key.
func TestReal(t *testing.T) {
	f, err := os.Open("testdata/cosign.pub")
	must(t, err)
	defer f.Close()
	keys, err := sign.ReadPublicKeys(f)
	must(t, err)
	c, repo := newRegistry(t)
	ref := loadReal(t, c, repo, nil)
	result, err := cosign.Verify(t.Context(), c, ref, keys)
	must(t, err)
	formats := map[cosign.Format]bool{}
	for _, s := range result.Signatures {
		if s.Err == nil && s.Key != nil {
			formats[s.Format] = true
		}
	}
	if len(result.Signatures) != 2 || !formats[cosign.FormatTag] || !formats[cosign.FormatBundle] {
		t.Errorf("%+v", result)
	}
	secret, err := os.Open("testdata/cosign.key")
	must(t, err)
	defer secret.Close()
	key, err := sign.ReadPrivateKey(secret, func() ([]byte, error) { return []byte("secret"), nil })
	must(t, err)
	if id, _ := sign.PublicKeyID(key.Public()); id != mustID(t, keys[0]) {
		t.Error("the halves do not belong together")
	}
}

func mustID(t testing.TB, k crypto.PublicKey) string {
	t.Helper()
	id, err := sign.PublicKeyID(k)
	must(t, err)
	return id
}

// TestForged puts signatures of the key about other things beside an image.
func TestForged(t *testing.T) {
	key := newKey(t, sign.KeyECDSA)
	digestOf := func(ref string) string { return ref[strings.Index(ref, "@")+1:] }
	const good = `{"critical":{"identity":{"docker-reference":"x"},"image":{"docker-manifest-digest":"DIGEST"},"type":"cosign container image signature"},"optional":null}`
	const statement = `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"HEX"}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`
	for _, tt := range []struct {
		name, text string
		valid      bool
	}{
		{"payload", good, true},
		{"other type", strings.Replace(good, "cosign container", "atomic container", 1), false},
		{"other digest", strings.Replace(good, "DIGEST", "sha256:"+strings.Repeat("0", 64), 1), false},
		{"no digest", `{"critical":{"type":"cosign container image signature"}}`, false},
		{"no JSON", "approved: DIGEST", false}, // CVE-2026-39395
		{"nothing", "", false},
		{"statement", statement, true},
		{"statement about something else", strings.Replace(statement, "HEX", strings.Repeat("0", 64), 1), false},
		{"SBOM", strings.Replace(statement, "https://sigstore.dev/cosign/sign/v1", "https://spdx.dev/Document", 1), false},
		{"old statement", strings.Replace(statement, "Statement/v1", "Statement/v0.1", 1), false},
		{"statement without subject", strings.Replace(statement, `{"digest":{"sha256":"HEX"}}`, "", 1), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, repo := newRegistry(t)
			ref := push(t, c, repo, "one")
			digest := digestOf(ref)
			hex := strings.TrimPrefix(digest, "sha256:")
			text := []byte(strings.NewReplacer("DIGEST", digest, "HEX", hex).Replace(tt.text))
			if strings.Contains(tt.name, "tatement") || tt.name == "SBOM" {
				putBundle(t, c, repo, ref, key, text)
			} else {
				putPayload(t, c, repo, ref, key, text)
			}
			result, err := cosign.Verify(t.Context(), c, ref, public(key))
			if tt.valid {
				must(t, err)
				return
			}
			if !errors.Is(err, cosign.ErrUnsigned) || len(result.Signatures) != 1 || result.Signatures[0].Err == nil {
				t.Errorf("%v, %+v", err, result)
			}
		})
	}
}

func putPayload(t *testing.T, c *registry.Client, repo, ref string, key crypto.Signer, text []byte) {
	t.Helper()
	sig, err := sign.SignMessage(key, text)
	must(t, err)
	layer, err := c.PutBlob(t.Context(), repo+":x", "application/vnd.dev.cosign.simplesigning.v1+json", text)
	must(t, err)
	layer.Annotations = map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(sig)}
	putManifest(t, c, repo+":"+strings.Replace(ref[strings.Index(ref, "@")+1:], ":", "-", 1)+".sig", nil, layer)
}

func putManifest(t *testing.T, c *registry.Client, ref string, subject *image.Descriptor, layers ...image.Descriptor) image.Descriptor {
	t.Helper()
	config, err := c.PutBlob(t.Context(), strings.Split(ref, "@")[0], ocispec.MediaTypeEmptyJSON, []byte("{}"))
	must(t, err)
	m := image.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: layers, Subject: subject}
	m.SchemaVersion = 2
	raw, err := json.Marshal(m)
	must(t, err)
	d, err := c.PutManifest(t.Context(), ref, m.MediaType, raw)
	must(t, err)
	return d
}

func putBundle(t *testing.T, c *registry.Client, repo, ref string, key crypto.Signer, text []byte) {
	t.Helper()
	const payloadType = "application/vnd.in-toto+json"
	var pae bytes.Buffer
	pae.WriteString("DSSEv1 28 " + payloadType + " ")
	pae.WriteString(json.Number(jsonInt(len(text))).String() + " ")
	pae.Write(text)
	sig, err := sign.SignMessage(key, pae.Bytes())
	must(t, err)
	raw, err := json.Marshal(map[string]any{
		"mediaType":            "application/vnd.dev.sigstore.bundle.v0.3+json",
		"verificationMaterial": map[string]any{"publicKey": map[string]any{"hint": "x"}},
		"dsseEnvelope":         map[string]any{"payload": text, "payloadType": payloadType, "signatures": []any{map[string]any{"sig": sig}}},
	})
	must(t, err)
	layer, err := c.PutBlob(t.Context(), repo+":x", "application/vnd.dev.sigstore.bundle.v0.3+json", raw)
	must(t, err)
	subject, _, err := c.Manifest(t.Context(), ref)
	must(t, err)
	d := putManifest(t, c, repo, &subject, layer)
	d.ArtifactType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	index := image.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []image.Descriptor{d}}
	index.SchemaVersion = 2
	raw, err = json.Marshal(index)
	must(t, err)
	_, err = c.PutManifest(t.Context(), repo+":"+strings.Replace(subject.Digest.String(), ":", "-", 1), index.MediaType, raw)
	must(t, err)
}

func jsonInt(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}

// TestRegistryThatLies serves other bytes under the digests of a signature, or endless lists.
func TestRegistryThatLies(t *testing.T) {
	key := newKey(t, sign.KeyECDSA)
	c, repo := newRegistry(t)
	ref := push(t, c, repo, "one")
	_, err := cosign.Sign(t.Context(), c, ref, key, &cosign.Options{Formats: []cosign.Format{cosign.FormatTag}})
	must(t, err)
	tag := repo + ":" + strings.Replace(ref[strings.Index(ref, "@")+1:], ":", "-", 1)
	_, raw, err := c.Manifest(t.Context(), tag+".sig")
	must(t, err)
	for name, change := range map[string]func(m *image.Manifest){
		"51 signatures": func(m *image.Manifest) {
			for range 50 {
				m.Layers = append(m.Layers, m.Layers[0])
			}
		},
		"large payload": func(m *image.Manifest) { m.Layers[0].Size = 1 << 40 },
		"other size":    func(m *image.Manifest) { m.Layers[0].Size++ },
		"no signature":  func(m *image.Manifest) { m.Layers[0].Annotations = nil },
		"no base64":     func(m *image.Manifest) { m.Layers[0].Annotations["dev.cosignproject.cosign/signature"] = "*" },
		"other layer":   func(m *image.Manifest) { m.Layers[0].MediaType = "text/plain" },
	} {
		var m image.Manifest
		must(t, json.Unmarshal(raw, &m))
		change(&m)
		changed, err := json.Marshal(m)
		must(t, err)
		_, err = c.PutManifest(t.Context(), tag+".sig", m.MediaType, changed)
		must(t, err)
		if result, err := cosign.Verify(t.Context(), c, ref, public(key)); err == nil {
			t.Errorf("%s: %+v", name, result)
		}
	}
}

// FuzzVerify has a registry serve anything as the list of signatures and as the index. Nothing that the key has not signed may count.
func FuzzVerify(f *testing.F) {
	dir := filepath.Join("testdata", "real")
	for _, name := range []string{"aa49c767e8f98c42b64945f6a3a8ce80d68b33a74c6b2496e7b17bf8a4fe6e1c", "ddd0b4b49b0ebb4d05941dde80a002b0a612a6138544968aae499c48ee42af32", "f95515b94ec936262a792c4cc5558e61565dcb2a69049d0d88e1d7bf5fd53be0", "9c1ff5b0c99b3b73644e02cebdc963e316aa1a661e5596c0cc81846e6da262c6"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		must(f, err)
		f.Add(data)
	}
	key := newKey(f, sign.KeyEd25519)
	f.Fuzz(func(t *testing.T, data []byte) {
		ref := "docker://r.example/x@sha256:432f982638b3aefab73cc58ab28f5c16e96fdb504e8c134fc58dff4bae8bf338"
		if result, err := cosign.Verify(t.Context(), fixed(data), ref, public(key)); err == nil {
			t.Errorf("%+v", result)
		}
	})
}
