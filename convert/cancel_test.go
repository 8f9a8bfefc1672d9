package convert_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hpcimg/convert"
)

// A stream that nothing comes from does not keep a conversion from being cancelled.
func TestCancelStalledTar(t *testing.T) {
	for _, sent := range []int{0, 100, 1000} {
		r, w := io.Pipe()
		defer w.Close()
		go w.Write(make([]byte, sent))
		dir := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		done := make(chan error, 1)
		go func() {
			_, err := convert.Convert(ctx, convert.FromTar(r), filepath.Join(dir, "x.sqfs"), nil)
			done <- err
		}()
		select {
		case err := <-done:
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("after %d bytes: %v, want the error of the context", sent, err)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("after %d bytes the conversion goes on", sent)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}
