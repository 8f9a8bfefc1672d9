package estargz_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"

	foreign "github.com/containerd/stargz-snapshotter/estargz"

	"hpcimg/convert/internal/estargz"
)

func ExampleWrite() {
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	if err := tw.WriteHeader(&tar.Header{Name: "etc/motd", Mode: 0o644, Size: 8}); err != nil {
		log.Fatal(err)
	}
	if _, err := io.WriteString(tw, "welcome\n"); err != nil {
		log.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		log.Fatal(err)
	}

	var blob bytes.Buffer
	res, err := estargz.Write(context.Background(), &blob, &layer, nil)
	if err != nil {
		log.Fatal(err)
	}

	r, err := foreign.Open(io.NewSectionReader(bytes.NewReader(blob.Bytes()), 0, res.Size))
	if err != nil {
		log.Fatal(err)
	}
	if _, err := r.VerifyTOC(res.TOCDigest); err != nil {
		log.Fatal(err)
	}
	f, err := r.OpenFile("etc/motd")
	if err != nil {
		log.Fatal(err)
	}
	text, err := io.ReadAll(f)
	fmt.Printf("%s%v\n", text, err)
	// Output:
	// welcome
	// <nil>
}
