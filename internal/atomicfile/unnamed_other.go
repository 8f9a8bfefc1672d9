//go:build !linux

package atomicfile

import (
	"errors"
	"os"
)

func openUnnamed(string, string) *os.File { return nil }

func link(*os.File, string) error { return errors.ErrUnsupported }
