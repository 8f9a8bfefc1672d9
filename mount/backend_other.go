//go:build !linux

package mount

import (
	"context"
	"os"
)

func reopen(f *os.File) (*os.File, error) { return nil, unsupported() }

func mountSquashfuse(context.Context, *os.File, string, *ImageOptions, bool) error {
	return unsupported()
}
