package convert_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	ggcrregistry "github.com/google/go-containerregistry/pkg/registry"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/image/registry"
)

// A SIF file goes to a registry in segments, and comes back as it was. A node that has an earlier version fetches what is new.
func ExampleCutSIF() {
	ctx := context.Background()
	server := httptest.NewServer(ggcrregistry.New(ggcrregistry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	ref := "docker://" + strings.TrimPrefix(server.URL, "http://") + "/tools/hello:v1"
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	local, back := filepath.Join(dir, "hello.sif"), filepath.Join(dir, "back.sif")
	if _, err := convert.Convert(ctx, convert.FromImage(exampleImage()), local, nil); err != nil {
		panic(err)
	}

	cut, err := convert.CutSIF(ctx, local)
	if err != nil {
		panic(err)
	}
	defer cut.Close()
	if _, err := registry.Push(ctx, cut.Image, ref, nil); err != nil {
		panic(err)
	}
	img, err := image.Open(ctx, ref, nil)
	if err != nil {
		panic(err)
	}
	if _, err := convert.Convert(ctx, convert.FromImage(img), back, &convert.Options{Reuse: []string{local}}); err != nil {
		panic(err)
	}
	fmt.Println(sameBytes(local, back))
	// Output: true
}

// A SIF file goes to a registry as Apptainer pushes and pulls it.
func ExampleSIFArtifact() {
	ctx := context.Background()
	server := httptest.NewServer(ggcrregistry.New(ggcrregistry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	ref := "oras://" + strings.TrimPrefix(server.URL, "http://") + "/tools/hello:v1"
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	local, back := filepath.Join(dir, "hello.sif"), filepath.Join(dir, "back.sif")
	if _, err := convert.Convert(ctx, convert.FromImage(exampleImage()), local, nil); err != nil {
		panic(err)
	}

	a, err := convert.SIFArtifact(ctx, local, "hello.sif")
	if err != nil {
		panic(err)
	}
	defer a.Close()
	if _, err := registry.PushArtifact(ctx, a.Artifact, ref, nil); err != nil {
		panic(err)
	}
	there, err := image.OpenArtifact(ctx, ref, nil)
	if err != nil {
		panic(err)
	}
	source, err := convert.FromArtifact(there)
	if err != nil {
		panic(err)
	}
	if _, err := convert.Convert(ctx, source, back, nil); err != nil {
		panic(err)
	}
	fmt.Println(sameBytes(local, back), there.Manifest().Layers[0].MediaType)
	// Output: true application/vnd.sylabs.sif.layer.v1.sif
}

func sameBytes(a, b string) bool {
	x, errX := os.ReadFile(a)
	y, errY := os.ReadFile(b)
	return errX == nil && errY == nil && string(x) == string(y)
}
