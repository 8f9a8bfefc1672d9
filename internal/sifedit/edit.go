package sifedit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sylabs/sif/v2/pkg/sif"

	"hpcimg/internal/atomicfile"
)

// chunk is how much is copied between two looks at the context. Where the file system can share blocks, it costs next to nothing.
const chunk = 64 << 20

// Edit copies the file at path, applies change to the copy, and replaces the file with it. Mode, access control list and, where permitted, owner
// stay; where the group cannot, its successor may do no more than everybody. A symbolic link is followed, so that the file behind it
// is the one that is replaced. check judges the file before and after.
func Edit(ctx context.Context, path string, check func(r io.ReaderAt, size int64) error, change func(*sif.FileImage) error) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	src, info, err := open(path)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := check(src, info.Size()); err != nil {
		return err
	}
	dst, err := atomicfile.Create(path, nil)
	if err != nil {
		return err
	}
	defer dst.Abort()
	keepAccess(dst, src, info)
	if err := copyFile(ctx, dst.File, src, info.Size()); err != nil {
		return err
	}
	if err := apply(dst.File, check, change); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return dst.Commit()
}

// open opens a regular file. Opening a pipe would wait for somebody to write to it, so what is there is looked at before and after.
func open(path string) (*os.File, fs.FileInfo, error) {
	notRegular := &fs.PathError{Op: "edit", Path: path, Err: errors.New("not a regular file")}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, nil, notRegular
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = notRegular
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

func copyFile(ctx context.Context, dst, src *os.File, size int64) error {
	for done := int64(0); done < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(dst, src, min(chunk, size-done))
		done += n
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("copy: %w", err)
		}
	}
	return nil
}

func apply(f *os.File, check func(io.ReaderAt, int64) error, change func(*sif.FileImage) error) error {
	// The copy, not the original, is what gets edited: somebody may have changed the original meanwhile.
	if err := checkFile(f, check); err != nil {
		return err
	}
	img, err := sif.LoadContainer(f, sif.OptLoadWithCloseOnUnload(false))
	if err != nil {
		return err
	}
	if err := change(img); err != nil {
		return err
	}
	if err := img.UnloadContainer(); err != nil {
		return err
	}
	return checkFile(f, check)
}

func checkFile(f *os.File, check func(io.ReaderAt, int64) error) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return check(f, info.Size())
}
