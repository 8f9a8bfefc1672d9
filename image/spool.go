package image

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
)

// spoolArchive copies an archive that can be read once to a file without a name, and opens it there. The list of what is in a Docker archive
// may be its last member, so that there is no other way.
func spoolArchive(ctx context.Context, what string, r io.Reader, dir string) (*archiveFiles, error) {
	f, err := os.CreateTemp(dir, ".hpcimg-archive-*")
	if err != nil {
		return nil, err
	}
	// Where a file that is open cannot be removed, it stays until the program that made it is asked to clean up.
	_ = os.Remove(f.Name())
	a, err := fillArchive(ctx, what, r, f)
	if err != nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
		return nil, err
	}
	return a, nil
}

func fillArchive(ctx context.Context, what string, r io.Reader, f *os.File) (*archiveFiles, error) {
	b := bufio.NewReaderSize(&contextReader{ctx: ctx, r: r}, 1<<16)
	head, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	plain, err := decompress(b, sniff(head))
	if err != nil {
		return nil, documentError("archive", "", "%w", err)
	}
	defer plain.Close()
	if _, err := io.Copy(f, plain); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := refuseCompressed(f); err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	a := &archiveFiles{path: what, info: info, unnamed: f, members: map[string]member{}}
	return a, a.index(ctx, f)
}
