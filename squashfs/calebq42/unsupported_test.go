//go:build !no_gpl && !hpcimg_gpl

package calebq42_test

import (
	"bytes"
	"errors"
	"testing"

	"hpcimg/squashfs/calebq42"
)

func TestUntaggedBuild(t *testing.T) {
	if _, err := calebq42.NewFS(bytes.NewReader(nil)); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("NewFS = %v, want unsupported", err)
	}
}
