package main

import (
	"errors"
	"io/fs"
	"testing"

	hpcrun "hpcimg/runtime"
)

func TestLaunch(t *testing.T) {
	for _, args := range [][]string{nil, {"image"}, {"-nosuch"}} {
		if code, err := launch(t.Context(), args); code != 2 || err == nil {
			t.Errorf("%v: %d, %v", args, code, err)
		}
	}
	if code, err := launch(t.Context(), []string{"/no/such/image", "true"}); code != hpcrun.ExitSetup || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no image: %d, %v", code, err)
	}
}
