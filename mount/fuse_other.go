//go:build !linux

package mount

import (
	"context"
	"os"
)

// Fuse is for Linux.
func Fuse(context.Context, string, string, *FuseOptions) (*Server, error) { return nil, unsupported() }

// FuseFile is for Linux.
func FuseFile(context.Context, *os.File, string, *FuseOptions) (*Server, error) {
	return nil, unsupported()
}
