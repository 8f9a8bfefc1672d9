package registry_test

import (
	"math/rand/v2"
	"testing"

	"hpcimg/image"
	"hpcimg/image/registry"
)

// TestPushInChunksAndMount pushes in chunks to real registries, and what was pushed again to another repository, where nothing is sent.
func TestPushInChunksAndMount(t *testing.T) {
	layer := make([]byte, 3<<20+5)
	_, _ = rand.NewChaCha8([32]byte{5}).Read(layer)
	img := build(t, "chunks", layer, []byte("small"))
	for name, host := range map[string]string{"docker-registry": program(t, false), "ggcr": newServer(t).host} {
		t.Run(name, func(t *testing.T) {
			from, to := "docker://"+host+"/team/one:v1", "docker://"+host+"/team/two:v1"
			if _, err := registry.Push(t.Context(), img, from, &registry.PushOptions{ChunkSize: 1 << 20}); err != nil {
				t.Fatal(err)
			}
			got, err := image.Open(t.Context(), from, nil)
			if err != nil {
				t.Fatal(err)
			}
			same(t, got, img)
			sent := 0
			_, err = registry.Push(t.Context(), got, to, &registry.PushOptions{Progress: func(e registry.Event) {
				if e.Complete && !e.Exists && e.Descriptor.Digest != got.Descriptor().Digest {
					sent++
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
			if sent > 0 {
				t.Errorf("%d blobs were sent that the registry had", sent)
			}
			again, err := image.Open(t.Context(), to, nil)
			if err != nil {
				t.Fatal(err)
			}
			same(t, again, img)
		})
	}
}
