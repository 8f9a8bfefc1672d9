//go:build !no_gpl && !hpcimg_gpl

package calebq42

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// FS is an image as a file system.
type FS struct{ fs.FS }

// NewFS opens the image in r.
func NewFS(io.ReaderAt) (*FS, error) {
	return nil, fmt.Errorf("squashfs/calebq42: program built without the tag no_gpl or hpcimg_gpl: %w", errors.ErrUnsupported)
}
