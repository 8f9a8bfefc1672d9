package images

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/klauspost/compress/gzip"
)

// writeLayer writes a gzip-compressed layer of what fill adds.
func writeLayer(out string, fill func(*tar.Writer) error) (err error) {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, f.Close()) }()
	zw := gzip.NewWriter(f)
	tw := tar.NewWriter(zw)
	return errors.Join(fill(tw), tw.Close(), zw.Close())
}

// versionLayer is the layer in which two versions of an image differ.
func versionLayer(version int) ([]byte, error) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	text := fmt.Sprintf("v%d\n", version+1)
	h := &tar.Header{Name: "version.txt", Mode: 0o644, Size: int64(len(text)), ModTime: buildTime().AddDate(0, version, 0)}
	if err := tw.WriteHeader(h); err != nil {
		return nil, err
	}
	_, err := io.WriteString(tw, text)
	return b.Bytes(), errors.Join(err, tw.Close())
}

// later writes the layer in to out, with all times a day later.
func later(ctx context.Context, in, out string) error {
	f, err := os.Open(in)
	if err != nil {
		return err
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	return writeLayer(out, func(tw *tar.Writer) error {
		for tr := tar.NewReader(zr); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			h.ModTime = h.ModTime.Add(24 * time.Hour)
			if err := tw.WriteHeader(h); err != nil {
				return err
			}
			if _, err := io.Copy(tw, tr); err != nil {
				return err
			}
		}
	})
}
