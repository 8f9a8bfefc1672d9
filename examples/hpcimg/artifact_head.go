package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"hpcimg/image"
	"hpcimg/sif"
)

// maxSIFHead is how much of a SIF file in a registry is read to learn what it says of itself. All of that stands before the partition.
const maxSIFHead = 1 << 20

// errFurther is what lies behind the beginning of a file.
var errFurther = fmt.Errorf("further than %d bytes into the file", maxSIFHead)

// fileHead is the beginning of a file that is being received.
type fileHead struct {
	r    io.Reader
	size int64
	have bytes.Buffer
}

// ReadAt implements io.ReaderAt.
func (h *fileHead) ReadAt(p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	if off < 0 || off >= h.size {
		return 0, io.EOF
	}
	if end > maxSIFHead {
		return 0, errFurther
	}
	if missing := min(end, h.size) - int64(h.have.Len()); missing > 0 {
		if _, err := io.CopyN(&h.have, h.r, missing); err != nil {
			return 0, err
		}
	}
	n := copy(p, h.have.Bytes()[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// headOf opens the beginning of a SIF file in a registry. It is not verified, as its digest is that of the whole file: good for looking, and
// for nothing else.
func headOf(ctx context.Context, a *image.Artifact) (*localImage, func(), error) {
	l := a.Manifest().Layers[0]
	ctx, cancel := context.WithCancel(ctx)
	rc, err := a.OpenBlob(ctx, l)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	end := func() {
		cancel()
		_ = rc.Close()
	}
	f, err := sif.NewFile(&fileHead{r: rc, size: l.Size}, l.Size)
	if err != nil {
		end()
		if errors.Is(err, errFurther) {
			err = fmt.Errorf("%w: pull it to see what it says", err)
		}
		return nil, nil, err
	}
	return &localImage{path: a.Reference().String(), sif: f}, end, nil
}
