//go:build linux

package conformance_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"hpcimg/convert"
	"hpcimg/image/cache"
	"hpcimg/internal/oracle"
)

// fill takes what is left of a file system but for some bytes.
func fill(t *testing.T, dir string, leave int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for err == nil {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		t.Error(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Error(err)
		return
	}
	if err := f.Truncate(max(0, info.Size()-leave)); err != nil {
		t.Error(err)
	}
}

// when returns a function for Options.Progress that does something once, when a stage has begun.
func when(stage convert.Stage, do func()) func(convert.Event) {
	done := false
	return func(e convert.Event) {
		if e.Stage == stage && !done {
			done = true
			do()
		}
	}
}

// TestFullDisk converts to file systems that are too small, or become so on the way. The error says so, and the old file is there or none.
func TestFullDisk(t *testing.T) {
	oracle.Root(t)
	s := makeSubject(t)
	warm := warmCache(t, s)
	for _, test := range []struct {
		name   string
		dir    func(t *testing.T) string
		cached bool          // the layers are in a cache elsewhere, and so the size of the result is known
		stage  convert.Stage // in which the space runs out
		before bool          // it is known before anything is done
		why    error
	}{
		{"too small", func(t *testing.T) string { return tmpfs(t, s.size/2) }, false, "", false, syscall.ENOSPC},
		{"too small, cached", func(t *testing.T) string { return tmpfs(t, s.size/2) }, true, "", true, nil},
		{"full while layers are read", func(t *testing.T) string { return tmpfs(t, s.size*8) }, false, convert.StageLayer, false, syscall.ENOSPC},
		// No statfs tells of a quota.
		{"quota", func(t *testing.T) string { return btrfs(t, s.size/2) }, false, "", false, syscall.EDQUOT},
		{"quota, cached", func(t *testing.T) string { return btrfs(t, s.size/2) }, true, "", false, syscall.EDQUOT},
	} {
		for _, old := range []bool{false, true} {
			name := test.name
			if old {
				name += ", replacing"
			}
			t.Run(name, func(t *testing.T) {
				dir := test.dir(t)
				dst := filepath.Join(dir, "out.sif")
				expected := []string{}
				opts := &convert.Options{Force: old}
				if test.cached {
					opts.Cache = warm
				}
				if old {
					if err := os.WriteFile(dst, []byte("old"), 0o600); err != nil {
						t.Fatal(err)
					}
					expected = append(expected, "out.sif")
				}
				if test.stage != "" {
					opts.Progress = when(test.stage, func() { fill(t, dir, 100_000) })
					expected = append([]string{"filler"}, expected...)
				}
				_, err := convert.Convert(t.Context(), s.source(t), dst, opts)
				space, ok := errors.AsType[*convert.SpaceError](err)
				if !ok || !errors.Is(err, convert.ErrSpace) {
					t.Fatalf("the error is %v", err)
				}
				if (space.Need > 0) != test.before || test.why != nil && !errors.Is(err, test.why) {
					t.Errorf("the error is %v: %+v", err, space)
				}
				onlyFiles(t, dir, expected...)
				if data, err := os.ReadFile(dst); old && (err != nil || string(data) != "old") {
					t.Errorf("the old file: %q, %v", data, err)
				}
			})
		}
	}
}

// warmCache returns a cache that has the subject's layers.
func warmCache(t *testing.T, s *subject) *cache.Cache {
	t.Helper()
	c, err := cache.Open(filepath.Join(t.TempDir(), "cache"), nil)
	if err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "out.sif")
	if _, err := convert.Convert(t.Context(), s.source(t), dst, &convert.Options{Cache: c}); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestFullCache: a cache without room is no reason for a conversion to fail, and it keeps nothing that is not whole.
func TestFullCache(t *testing.T) {
	oracle.Root(t)
	s := makeSubject(t)
	for _, test := range []struct {
		name string
		dir  func(t *testing.T) string
		fill bool
	}{
		{"too small", func(t *testing.T) string { return tmpfs(t, s.size/4) }, false},
		{"full on the way", func(t *testing.T) string { return tmpfs(t, s.size*4) }, true},
		{"quota", func(t *testing.T) string { return btrfs(t, s.size/4) }, false},
		{"no room at all", func(t *testing.T) string {
			dir := tmpfs(t, 64<<10)
			fill(t, dir, 0)
			return dir
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := test.dir(t)
			c, err := cache.Open(filepath.Join(dir, "cache"), nil)
			if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
				return // nobody could have made it
			}
			if err != nil {
				t.Fatal(err)
			}
			want := plainSum(t, s)
			for range 2 {
				dst := filepath.Join(t.TempDir(), "out.sif")
				opts := &convert.Options{Cache: c}
				if test.fill {
					opts.Progress = when(convert.StageLayer, func() { fill(t, dir, 100_000) })
				}
				if _, err := convert.Convert(t.Context(), s.source(t), dst, opts); err != nil {
					t.Fatal(err)
				}
				if got := sumFile(t, dst); got != want {
					t.Error("other bytes")
				}
				onlyFiles(t, filepath.Dir(dst), "out.sif")
			}
			checkCache(t, filepath.Join(dir, "cache"))
		})
	}
}

// plainSum is the digest of what package convert makes of the subject: the command line adds its version.
func plainSum(t testing.TB, s *subject) string {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "plain.sif")
	if _, err := convert.Convert(t.Context(), s.source(t), dst, nil); err != nil {
		t.Fatal(err)
	}
	return sumFile(t, dst)
}
