package mount

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// Options say which part of a file is the image.
type Options struct {
	// Offset is where the image starts; a multiple of 512.
	Offset int64
	// Size is the size of the image; 0 means the rest of the file.
	Size int64
	// Admit is asked before the kernel gets anything of the image, with the file and the part of it that are to be mounted. An error ends the
	// mount. Nil admits everything.
	Admit func(ctx context.Context, f *os.File, offset, size int64) error
}

// Error says that no backend could mount an image.
type Error struct {
	// Target is the mount point.
	Target string
	// Attempts has the error of each backend that was tried, best first.
	Attempts []error
}

func (e *Error) Error() string {
	texts := make([]string, len(e.Attempts))
	for i, err := range e.Attempts {
		texts[i] = err.Error()
	}
	return fmt.Sprintf("mount: nothing mounts the image at %s: %s", e.Target, strings.Join(texts, "; "))
}

// Unwrap returns the attempts, for errors.Is and errors.As.
func (e *Error) Unwrap() []error { return e.Attempts }

// Squashfs mounts the squashfs image in the file at path on the directory target: read-only, nosuid, nodev. The mount lasts
// until Unmount. Nil options mean that the whole file is the image.
func Squashfs(ctx context.Context, path, target string, o *Options) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return SquashfsFile(ctx, f, target, o)
}

// SquashfsFile is Squashfs with an open file, which may be closed afterwards.
func SquashfsFile(ctx context.Context, f *os.File, target string, o *Options) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := kernel(ctx, f, target, o); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &Error{Target: target, Attempts: []error{fmt.Errorf("kernel: %w", err)}}
	}
	return nil
}
