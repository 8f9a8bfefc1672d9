package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/image"
	imageregistry "hpcimg/image/registry"
	"hpcimg/sif"
)

// TestSBOM attaches a list of contents to an image, and finds it in the SIF that is made of it, which is still what its source gives.
func TestSBOM(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := server.Listener.Addr().String()
	if err := pushDemo(host, runtime.GOARCH, "demo", demoLayers(t)); err != nil {
		t.Fatal(err)
	}
	const contents = `{"spdxVersion":"SPDX-2.3"}`
	client, repo := imageregistry.NewClient(nil), "docker://"+host+"/demo"
	subject, _, err := client.Manifest(t.Context(), repo+":1")
	if err != nil {
		t.Fatal(err)
	}
	m := image.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/spdx+json", Subject: &subject}
	m.SchemaVersion = 2
	if m.Config, err = client.PutBlob(t.Context(), repo, ocispec.MediaTypeEmptyJSON, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	layer, err := client.PutBlob(t.Context(), repo, "application/spdx+json", []byte(contents))
	if err != nil {
		t.Fatal(err)
	}
	m.Layers = []image.Descriptor{layer}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.PutManifest(t.Context(), repo, m.MediaType, raw); err != nil {
		t.Fatal(err)
	}

	dir := t.TempDir()
	path := filepath.Join(dir, "a.sif")
	var out, stderr bytes.Buffer
	do := func(args ...string) {
		t.Helper()
		std := stdio{in: strings.NewReader(""), out: &out, err: &stderr, env: append(os.Environ(), "HOME="+dir)}
		if code := run(t.Context(), append([]string{"--no-cache", "-q"}, args...), std); code != exitOK {
			t.Fatalf("%v: %d: %s", args, code, stderr.String())
		}
	}
	do("pull", "--sbom", path, repo+":1")
	f, err := sif.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, o := range f.Objects() {
		if o.Type == sif.DataSBOM {
			data, err := io.ReadAll(o.Open())
			found = err == nil && string(data) == contents && o.GroupID == 1
		}
	}
	f.Close()
	if !found {
		t.Error("no list of contents in the file")
	}
	do("key", "new", "--pem", "ed25519", "--output", filepath.Join(dir, "k"))
	do("sign", "--key", filepath.Join(dir, "k.key"), path)
	do("verify", "--key", filepath.Join(dir, "k.pub"), path)
	do("verify", "--rebuild", path)
}
