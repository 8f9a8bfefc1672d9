package convert_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// exampleImage has two layers, of which the second deletes a file of the first.
func exampleImage() *image.Image {
	base := testtree.Tree{
		testtree.File("etc/os-release", 0o644, "ID=example\n"),
		testtree.File("var/cache/packages", 0o644, "not needed any more\n"),
	}
	top := testtree.Tree{
		testtree.Whiteout("var/cache"),
		testtree.File("usr/bin/hello", 0o755, "#!/bin/sh\necho hello\n"),
	}
	img, err := image.Build(image.Config{}, image.LayerInput{Tar: base.Tar(nil)}, image.LayerInput{Tar: top.Tar(nil)})
	if err != nil {
		panic(err)
	}
	return img
}

func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	dst := filepath.Join(dir, "hello.sqfs")

	result, err := convert.Convert(context.Background(), convert.FromImage(exampleImage()), dst, nil)
	if err != nil {
		panic(err)
	}
	fmt.Println(len(result.Layers), "layers,", result.Layers[0].Hidden, "file hidden")

	r, err := squashfs.Open(dst, nil)
	if err != nil {
		panic(err)
	}
	defer r.Close()
	_ = fs.WalkDir(r, ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			fmt.Println(path)
		}
		return err
	})
	// Output:
	// 2 layers, 1 file hidden
	// etc/os-release
	// usr/bin/hello
}

func ExampleConvert() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	dst := filepath.Join(dir, "hello.sif")

	ctx := context.Background()
	src := convert.FromImage(exampleImage())
	_, err = convert.Convert(ctx, src, dst, &convert.Options{Compression: squashfs.CompressionZstd})
	fmt.Println("first:", err)
	_, err = convert.Convert(ctx, src, dst, nil)
	fmt.Println("again:", errors.Is(err, fs.ErrExist))
	_, err = convert.Convert(ctx, src, dst, &convert.Options{Force: true})
	fmt.Println("by force:", err)
	// Output:
	// first: <nil>
	// again: true
	// by force: <nil>
}

func ExampleFromTar() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	stream := bytes.NewReader(testtree.Tree{testtree.File("hello", 0o644, "hello")}.TarGzip(nil))
	result, err := convert.Convert(context.Background(), convert.FromTar(stream), filepath.Join(dir, "hello.sqsh"), nil)
	if err != nil {
		panic(err)
	}
	fmt.Println(result.Form, result.Entries)
	// Output:
	// squashfs 2
}

func ExampleFromDir() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	root := filepath.Join(dir, "root")
	if err := os.MkdirAll(filepath.Join(root, "data"), 0o755); err != nil {
		panic(err)
	}

	result, err := convert.Convert(context.Background(), convert.FromDir(root), filepath.Join(dir, "data.sqfs"), nil)
	if err != nil {
		panic(err)
	}
	fmt.Println(result.Form, result.Entries)
	// Output:
	// squashfs 2
}

func ExampleFormOf() {
	fmt.Println(convert.FormOf("python.sif"))
	fmt.Println(convert.FormOf("python.sqfs"))
	fmt.Println(convert.FormOf("python.zip"))
	// Output:
	// sif <nil>
	// squashfs <nil>
	//  unknown form of image: "python.zip" does not end in .sif, .oci.sif, .sqfs, .sqsh, .squashfs or .tar
}
