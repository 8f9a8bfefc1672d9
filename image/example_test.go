package image_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"os"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/image"
)

func newExampleRegistry() http.Handler { return ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))) }

func ExampleParseReference() {
	ref, err := image.ParseReference("docker://python:3.12")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(ref)
	fmt.Println(ref.Host, ref.Repository, ref.Tag)
	fmt.Println(ref.FileName(".sif"))

	_, err = image.ParseReference("python:3.12")
	fmt.Println(errors.Is(err, image.ErrReference))
	// Output:
	// docker://docker.io/library/python:3.12
	// docker.io library/python 3.12
	// python.3.12.sif
	// true
}

func ExampleParsePlatform() {
	p, err := image.ParsePlatform("linux/aarch64")
	fmt.Println(p.OS, p.Architecture, err)
	// Output: linux arm64 <nil>
}

func ExampleBuild() {
	img, err := image.Build(
		image.Config{
			Platform: image.Platform{OS: "linux", Architecture: "amd64"},
			Config:   ocispec.ImageConfig{Env: []string{"GREETING=hello"}},
		},
		image.LayerInput{Tar: make([]byte, 1024), Compression: image.CompressionNone},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	rc, err := img.Layers()[0].Open(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer rc.Close()
	n, err := io.Copy(io.Discard, rc)
	fmt.Println(n, err)
	fmt.Println(img.Config().Config.Env)
	// Output:
	// 1024 <nil>
	// [GREETING=hello]
}

func ExampleWriteLayout() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "layout")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	img, err := image.Build(image.Config{Author: "me"})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := image.WriteLayout(ctx, dir, img, "v1"); err != nil {
		fmt.Println(err)
		return
	}
	again, err := image.Open(ctx, "oci:"+dir+":v1", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(again.Config().Author)

	_, err = image.Open(ctx, "oci:"+dir+":v2", nil)
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	// Output:
	// me
	// true
}

func ExampleWriteDockerArchive() {
	ctx := context.Background()
	img, err := image.Build(image.Config{Author: "me"}, image.LayerInput{Tar: make([]byte, 1024)})
	if err != nil {
		fmt.Println(err)
		return
	}
	f, err := os.CreateTemp("", "image-*.tar")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := image.WriteDockerArchive(ctx, f, img, "demo:v1"); err != nil {
		fmt.Println(err)
		return
	}
	again, err := image.Open(ctx, "docker-archive:"+f.Name()+":demo:v1", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(again.Config().Author)
	// Output:
	// me
}
