package squashfs_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing/fstest"
	"time"

	"hpcimg/squashfs"
)

func ExampleCreate() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	image := filepath.Join(dir, "hello.squashfs")
	err = squashfs.Create(context.Background(), image, nil, func(ctx context.Context, w *squashfs.Writer) error {
		script := "#!/bin/sh\necho hello\n"
		return w.Add(ctx, squashfs.Entry{
			Path: "bin/hello", Mode: 0o755, ModTime: time.Unix(0, 0), Size: int64(len(script)),
		}, strings.NewReader(script))
	})
	if err != nil {
		log.Fatal(err)
	}
	r, err := squashfs.Open(image, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	data, err := fs.ReadFile(r, "bin/hello")
	fmt.Printf("%s%v\n", data, err)
	// Output:
	// #!/bin/sh
	// echo hello
	// <nil>
}

func ExampleWriter_FromFS() {
	var image memory
	w, err := squashfs.NewWriter(&image, &squashfs.WriterOptions{Compression: squashfs.CompressionZstd})
	if err != nil {
		log.Fatal(err)
	}
	fsys := fstest.MapFS{"etc/motd": {Data: []byte("welcome\n"), Mode: 0o644}}
	if err := w.FromFS(context.Background(), fsys); err != nil {
		log.Fatal(err)
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(w.Size())
	// Output: 12288
}

// Contents are packed once and used in two images, which differ in a name.
func ExampleBuilder() {
	ctx := context.Background()
	var contents memory
	p, err := squashfs.NewPacker(&contents, 0, nil)
	if err != nil {
		log.Fatal(err)
	}
	text := strings.Repeat("the same contents\n", 1000)
	c, err := p.Add(ctx, strings.NewReader(text), int64(len(text)))
	if err != nil {
		log.Fatal(err)
	}
	pack, err := p.Close()
	if err != nil {
		log.Fatal(err)
	}
	for _, name := range []string{"v1.txt", "v2.txt"} {
		const offset = 4096
		var image memory
		if _, err := image.WriteAt(contents.b, offset); err != nil {
			log.Fatal(err)
		}
		b, err := squashfs.NewBuilder(nil)
		if err != nil {
			log.Fatal(err)
		}
		id, err := b.AddPack(pack, offset)
		if err != nil {
			log.Fatal(err)
		}
		if err := b.Add(squashfs.Entry{Path: name, Mode: 0o644, Content: c, Pack: id}); err != nil {
			log.Fatal(err)
		}
		size, err := b.WriteTables(ctx, &image, offset+pack.Size)
		if err != nil {
			log.Fatal(err)
		}
		r, err := squashfs.NewReader(bytes.NewReader(image.b), size, nil)
		if err != nil {
			log.Fatal(err)
		}
		data, err := r.ReadFile(name)
		fmt.Println(name, string(data) == text, err)
	}
	// Output:
	// v1.txt true <nil>
	// v2.txt true <nil>
}
