package registry_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"hpcimg/image"
	"hpcimg/image/registry"
)

func ExamplePush() {
	ctx := context.Background()
	srv := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	repo := "docker://" + strings.TrimPrefix(srv.URL, "http://") + "/tools/hello"

	img, err := image.Build(image.Config{Author: "me"}, image.LayerInput{Tar: make([]byte, 1024)})
	if err != nil {
		fmt.Println(err)
		return
	}
	desc, err := registry.Push(ctx, img, repo+":v1", &registry.PushOptions{
		Progress: func(e registry.Event) {
			if e.Complete && e.Descriptor.Digest == img.Descriptor().Digest {
				fmt.Println("the manifest is there")
			}
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(desc.Digest == img.Descriptor().Digest)

	c := registry.NewClient(nil)
	tags, err := c.Tags(ctx, repo)
	fmt.Println(tags, err)
	now, err := c.Resolve(ctx, repo+":v1")
	fmt.Println(now.Digest == desc.Digest, err)
	// Output:
	// the manifest is there
	// true
	// [v1] <nil>
	// true <nil>
}

func ExampleDockerConfig() {
	dir, err := os.MkdirTemp("", "config")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, []byte(`{"auths":{"ghcr.io":{"auth":"bWU6c2VjcmV0"}}}`), 0o600); err != nil {
		fmt.Println(err)
		return
	}

	opts := image.RegistryOptions{Credentials: registry.DockerConfig(path)}
	c, err := opts.Credentials(context.Background(), "ghcr.io")
	fmt.Println(c.Username, err)
	// Output: me <nil>
}
