package squashfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"testing/fstest"

	"hpcimg/squashfs"
)

// exampleImage returns a small image.
func exampleImage() *bytes.Reader {
	var image memory
	w, err := squashfs.NewWriter(&image, nil)
	if err != nil {
		log.Fatal(err)
	}
	err = w.FromFS(context.Background(), fstest.MapFS{
		"bin":          {Data: []byte("usr/bin"), Mode: fs.ModeSymlink | 0o777},
		"usr/bin/tool": {Data: []byte("#!/bin/sh\n"), Mode: fs.ModeSetuid | 0o755},
		"etc":          {Mode: fs.ModeDir | 0o755},
		"etc/motd":     {Data: []byte("welcome\n"), Mode: 0o644},
	})
	if err := errors.Join(err, w.Close()); err != nil {
		log.Fatal(err)
	}
	return bytes.NewReader(image.b)
}

func ExampleNewReader() {
	image := exampleImage()
	r, err := squashfs.NewReader(image, image.Size(), nil)
	if err != nil {
		log.Fatal(err)
	}
	info, err := fs.Stat(r, "bin/tool") // bin is a symbolic link
	if err != nil {
		log.Fatal(err)
	}
	x := info.(*squashfs.FileInfo)
	fmt.Println(x.Mode(), x.UID(), x.GID(), x.LinkCount())

	f, err := r.Open("etc/motd")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	part := make([]byte, 4)
	if _, err := f.(io.ReaderAt).ReadAt(part, 3); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", part)
	// Output:
	// urwxr-xr-x 0 0 1
	// come
}

func ExampleReader_Root() {
	image := exampleImage()
	r, err := squashfs.NewReader(image, image.Size(), nil)
	if err != nil {
		log.Fatal(err)
	}
	for e, err := range r.Root().ReadDir(0) {
		if err != nil {
			log.Fatal(err)
		}
		in, err := r.Inode(e.Ref)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(in.Mode(), e.Name, in.Readlink() != "")
	}
	// Output:
	// Lrwxrwxrwx bin true
	// drwxr-xr-x etc false
	// dr-xr-xr-x usr false
}

func ExampleExtract() {
	image := exampleImage()
	r, err := squashfs.NewReader(image, image.Size(), nil)
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer root.Close()
	result, err := squashfs.Extract(context.Background(), r, root, &squashfs.ExtractOptions{Source: "etc", NoOwner: true})
	if err != nil {
		log.Fatal(err)
	}
	motd, err := os.ReadFile(filepath.Join(dir, "motd"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d file, %s", result.Files, motd)
	// Output: 1 file, welcome
}

func ExampleCheck() {
	image := exampleImage()
	report, err := squashfs.Check(context.Background(), image, image.Size(), nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.OK(), report.Inodes)

	// The same image without its last bytes.
	report, err = squashfs.Check(context.Background(), image, image.Size()-4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range report.Findings {
		fmt.Printf("%s at %#x, refused by %v\n", f.Rule, f.Offset, f.RefusedBy)
	}
	// Output:
	// true 7
	// bytes-used at 0x0, refused by kernel, unsquashfs, hpcimg
	// superblock at 0x0, refused by kernel, squashfuse, unsquashfs, hpcimg
}
