package convert

import (
	"context"
	"fmt"
	"io"

	"hpcimg/squashfs"
)

// openSquashfs reads a layer that is a squashfs. It is fetched to a temporary file first, and verified.
func (l imageLayer) openSquashfs(ctx context.Context, j *job, o *opening) (entryReader, error) {
	if l.DiffID != l.Descriptor.Digest {
		return nil, fmt.Errorf("%w: the diffID of a layer that is a squashfs is not its digest", ErrFormat)
	}
	blob, err := l.Layer.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	temp, err := newTempFile(j.opts.TempDir)
	if err != nil {
		return nil, err
	}
	entries, err := func() (entryReader, error) {
		if _, err := io.Copy(temp, o.task.Reader(ctxReads{ctx, blob})); err != nil {
			return nil, err
		}
		r, err := squashfs.NewReader(temp, l.Descriptor.Size, nil)
		if err != nil {
			return nil, err
		}
		silent := *o
		silent.task = nil // progress is what has been fetched
		return squashfsLayer{r}.open(ctx, j, &silent)
	}()
	if err != nil {
		_ = temp.Close()
		return nil, err
	}
	tree := entries.(*squashfsEntries)
	tree.overlay = true
	return &spooledEntries{tree, temp}, nil
}

// spooledEntries are the entries of a tree in a temporary file.
type spooledEntries struct {
	*squashfsEntries
	temp *tempFile
}

// Close implements entryReader.
func (s *spooledEntries) Close() error { return s.temp.Close() }
