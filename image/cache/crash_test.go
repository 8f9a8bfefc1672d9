package cache_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hpcimg/image/cache"
)

// nobody is the id of a process that there cannot be.
const nobody = 1<<22 + 1

var errCrashed = errors.New("crashed")

// interpose sets a hook. What is synced is of no matter to a test without a power cut but takes most of the
// time, so it is not.
func interpose(c *cache.Cache, hook func(op, path string, do func() error) error) {
	c.SetHook(func(op, path string, do func() error) error {
		if op == "sync" || op == "syncdir" {
			do = func() error { return nil }
		}
		return hook(op, path, do)
	})
}

// long makes tests try more combinations than one of each kind.
var long = flag.Bool("cache.long", false, "try every kind of loss and of error at every step")

func longer() int {
	if *long {
		return 4
	}
	return 1
}

// workload stores two entries, uses one, takes a lease, verifies and cleans: every step that a process can die at.
func workload(c *cache.Cache) error {
	ctx := context.Background()
	for _, kind := range []cache.Kind{cache.KindSegment, cache.KindIndex} {
		release, err := c.Once(ctx, string(kind), func() bool { return false })
		if err != nil {
			return err
		}
		e, err := tryStore(c, kind, key("a"), []byte("data"), []byte("meta"))
		release()
		if err != nil {
			return err
		}
		e.Close()
	}
	e, err := c.Get(ctx, cache.KindSegment, key("a"))
	if err != nil {
		return err
	}
	defer e.Close()
	if err := e.Verify(ctx); err != nil {
		return err
	}
	_, err = c.Clean(ctx, nil)
	return err
}

// steps counts what workload does to the file system.
func steps(t *testing.T, local bool) int {
	t.Helper()
	c := open(t, "", nil)
	c.SetBoot("boot-1", local)
	n := 0
	interpose(c, func(_, _ string, do func() error) error { n++; return do() })
	if err := workload(c); err != nil {
		t.Fatal(err)
	}
	if n < 20 {
		t.Fatalf("only %d steps", n)
	}
	return n
}

// survivors wants whatever is found in a cache after a crash to be right, the cache to work, and nothing of the
// dead to be left.
func survivors(t *testing.T, dir, boot string, local bool) {
	t.Helper()
	c := open(t, dir, nil)
	c.SetBoot(boot, local)
	interpose(c, func(_, _ string, do func() error) error { return do() })
	for _, kind := range []cache.Kind{cache.KindSegment, cache.KindIndex} {
		e, err := c.Get(t.Context(), kind, key("a"))
		if err == nil {
			err = compareEntry(e, []byte("data"), []byte("meta"))
			e.Close()
			if err != nil && !errors.Is(err, cache.ErrCorrupt) {
				t.Errorf("%s: %v", kind, err)
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if err := workload(c); err != nil {
		t.Errorf("after the crash: %v", err)
	}
	for _, kind := range []cache.Kind{cache.KindSegment, cache.KindIndex} {
		checkEntry(t, get(t, c, kind, key("a")), []byte("data"), []byte("meta"))
	}
	if _, err := c.Clean(t.Context(), nil); err != nil {
		t.Error(err)
	}
	noLeftovers(t, dir)
}

// TestCrash ends the process before each step.
func TestCrash(t *testing.T) {
	for _, local := range []bool{false, true} {
		for n := range steps(t, local) {
			c := open(t, "", nil)
			c.SetBoot("boot-1", local)
			c.SetPID(nobody)
			done, last := 0, ""
			interpose(c, func(op, path string, do func() error) error {
				if done == n {
					if last == "" {
						last = op + " " + filepath.Base(path)
					}
					return errCrashed
				}
				done++
				return do()
			})
			_ = workload(c)
			survivors(t, c.Dir(), "boot-1", local)
			if t.Failed() {
				t.Fatalf("local %v, crash at step %d: %s", local, n, last)
			}
		}
	}
}

// TestPowerCut ends the system before each step: of files that were not synced, the names and sizes may be
// there without the data, or the files may be short.
func TestPowerCut(t *testing.T) {
	losses := []func(b []byte) []byte{
		func(b []byte) []byte { return make([]byte, len(b)) },
		func([]byte) []byte { return nil },
		func(b []byte) []byte { return b[:len(b)/2] },
		func(b []byte) []byte { return append(make([]byte, min(len(b), 4096)), b[min(len(b), 4096):]...) },
	}
	for _, local := range []bool{false, true} {
		for round := range longer() {
			for n := range steps(t, local) {
				c := open(t, "", nil)
				c.SetBoot("boot-1", local)
				c.SetPID(nobody)
				synced := make(map[string]bool) // by temporary name, then by name
				done := 0
				interpose(c, func(op, path string, do func() error) error {
					if done == n {
						return errCrashed
					}
					done++
					err := do()
					switch {
					case op == "sync":
						synced[inode(t, path)] = true
					case op == "write":
						delete(synced, inode(t, path))
					}
					return err
				})
				_ = workload(c)
				cutPower(t, c.Dir(), synced, losses[(n+round)%len(losses)])
				survivors(t, c.Dir(), "boot-2", local)
				if t.Failed() {
					t.Fatalf("local %v, round %d, power cut at step %d", local, round, n)
				}
			}
		}
	}
}

func inode(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(info.Sys().(*syscall.Stat_t).Ino)
}

// cutPower takes the data of entries that were not synced, but leaves them their times and makes their marks
// fit, as if all that were metadata had survived.
func cutPower(t *testing.T, dir string, synced map[string]bool, lose func([]byte) []byte) {
	t.Helper()
	c := open(t, dir, nil)
	c.SetPID(nobody)
	for _, name := range tree(t, dir) {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, ".used") || strings.Contains(name, "lease") || synced[inode(t, path)] {
			continue // a lease that was lost takes a minute, which is about what starting the system takes
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		chmod(t, path, 0o600)
		if err := os.WriteFile(path, lose(b), 0o600); err != nil {
			t.Fatal(err)
		}
		kind := cache.Kind(filepath.Base(filepath.Dir(filepath.Dir(path))))
		if verified, bound := c.HasMark(kind, filepath.Base(path)); verified {
			if !bound {
				t.Errorf("%s: marked for good without having been synced", name)
			}
			if e, err := c.Get(t.Context(), kind, filepath.Base(path)); err == nil {
				c.ForgeMark(e, time.Now(), "boot-1")
				e.Close()
			}
		}
	}
}

// TestFailingSteps fails each step. What matters must come out of the call, and in no case may anything wrong be left.
func TestFailingSteps(t *testing.T) {
	causes := []error{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT}
	for round := range longer() {
		for n := range steps(t, false) {
			cause := causes[(n+round)%len(causes)]
			c := open(t, "", nil)
			c.SetBoot("boot-1", false)
			c.SetPID(nobody) // whose lease, if it cannot be removed, is not waited for
			done, failed := 0, ""
			interpose(c, func(op, path string, do func() error) error {
				done++
				if done-1 == n {
					failed = op
					if op == "close" { // the file is closed all the same
						_ = do()
					}
					return &fs.PathError{Op: op, Path: path, Err: cause}
				}
				return do()
			})
			err := workload(c)
			if err != nil && !errors.Is(err, cause) && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("step %d, %s: %v", n, failed, err)
			}
			if failed != "remove" {
				noTemps(t, c.Dir())
			}
			survivors(t, c.Dir(), "boot-1", false)
			if t.Failed() {
				t.Fatalf("%v at step %d, %s", cause, n, failed)
			}
		}
	}
}

func noTemps(t *testing.T, dir string) {
	t.Helper()
	for _, name := range tree(t, dir) {
		if strings.Contains(name, ".part-") {
			t.Errorf("left: %s", name)
		}
	}
}

// TestCommitTellsErrors wants errors that may come late, at sync and close too, out of Commit, and nothing to be left.
func TestCommitTellsErrors(t *testing.T) {
	for _, op := range []string{"truncate", "write", "sync", "chmod", "close", "link"} {
		for _, cause := range []error{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT} {
			c := open(t, "", &cache.Options{MaxSize: -1})
			c.SetBoot("", false)
			w, err := c.Create(cache.KindSegment, key("a"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(bytes.Repeat([]byte("data"), 100)); err != nil {
				t.Fatal(err)
			}
			interpose(c, func(did, path string, do func() error) error {
				if did == op {
					return &fs.PathError{Op: op, Path: path, Err: cause}
				}
				return do()
			})
			if _, err := w.Commit(t.Context(), 400, []byte("meta")); !errors.Is(err, cause) {
				t.Errorf("%s: %v, want %v", op, err, cause)
			}
			c.SetHook(nil)
			if err := w.Abort(); err != nil {
				t.Errorf("%s: abort: %v", op, err)
			}
			if names := tree(t, c.Dir()); len(names) > 0 {
				t.Errorf("%s: left: %q", op, names)
			}
		}
	}
}
