package policy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/internal/oracle"
)

// consumer is a program of somebody else's. It uses nothing of ours but exported names, and makes a file by them.
const consumer = `package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"log"
	"os"

	"hpcimg/convert"
	"hpcimg/image"
)

func main() {
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	if err := tw.WriteHeader(&tar.Header{Name: "hello", Mode: 0o644, Size: 6}); err != nil {
		log.Fatal(err)
	}
	if _, err := tw.Write([]byte("hello\n")); err != nil {
		log.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		log.Fatal(err)
	}
	img, err := image.Build(image.Config{}, image.LayerInput{Tar: layer.Bytes()})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := convert.Convert(context.Background(), convert.FromImage(img), os.Args[1], nil); err != nil {
		log.Fatal(err)
	}
	fmt.Println("converted", len(img.Layers()), "layer")
}
`

// TestConsumer compiles and runs a program in a module outside this one, without the network: what it needs is what go.mod
// of this module names.
func TestConsumer(t *testing.T) {
	oracle.Short(t, "builds a program in another module")
	dir := t.TempDir()
	files := map[string]string{
		"main.go": consumer,
		"go.mod":  fmt.Sprintf("module consumer\n\ngo %s\n\nrequire hpcimg v0.0.0\n\nreplace hpcimg => %s\n", readGoMod(t, "go.mod").Go, root(t)),
		"go.sum":  readFile(t, "go.sum"),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off", "CGO_ENABLED=0"}
	goCommand(t, dir, env, "build", "-o", "consumer.exe", ".")
	sif := filepath.Join(dir, "hello.sif")
	out := oracle.Run(t, filepath.Join(dir, "consumer.exe"), sif)
	if strings.TrimSpace(out) != "converted 1 layer" {
		t.Errorf("the program says %q", out)
	}
	if info, err := os.Stat(sif); err != nil || info.Size() == 0 {
		t.Errorf("it wrote %v, %v", info, err)
	}
}
