//go:build !linux

package atomicfile

import "errors"

func renameNoReplace(string, string) error { return errors.ErrUnsupported }
