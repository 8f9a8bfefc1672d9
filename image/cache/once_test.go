package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"hpcimg/image/cache"
)

func never() bool { return false }

// herd calls Once from 64 goroutines with handles of their own and counts those that are chosen. The chosen one
// works for a moment.
func herd(t *testing.T, dir string) (chosen int32) {
	t.Helper()
	var (
		n    atomic.Int32
		done atomic.Bool
		wg   sync.WaitGroup
	)
	for range 64 {
		c := open(t, dir, nil)
		wg.Go(func() {
			release, err := c.Once(t.Context(), "work", done.Load)
			if err != nil {
				t.Error(err)
				return
			}
			if release == nil {
				if !done.Load() {
					t.Error("sent away before the work was done")
				}
				return
			}
			n.Add(1)
			time.Sleep(50 * time.Millisecond)
			done.Store(true)
			release()
			release() // again is nothing
		})
	}
	wg.Wait()
	noLeftovers(t, dir)
	return n.Load()
}

func TestOnce(t *testing.T) {
	if n := herd(t, filepath.Join(t.TempDir(), "cache")); n != 1 {
		t.Errorf("%d of 64 were chosen", n)
	}
}

func TestOnceReady(t *testing.T) {
	c := open(t, "", nil)
	release, err := c.Once(t.Context(), "work", func() bool { return true })
	if release != nil || err != nil {
		t.Fatalf("%v", err)
	}
	if names := tree(t, c.Dir()); len(names) > 0 {
		t.Errorf("left: %q", names)
	}
	// It became ready when the last holder let go.
	n := 0
	release, err = c.Once(t.Context(), "work", func() bool { n++; return n > 1 })
	if release != nil || err != nil {
		t.Fatalf("%v", err)
	}
	noLeftovers(t, c.Dir())
}

// TestOnceAgain wants the next one to be chosen when the first has failed.
func TestOnceAgain(t *testing.T) {
	c := open(t, "", nil)
	first, err := c.Once(t.Context(), "work", never)
	if err != nil || first == nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, first)
	second, err := c.Once(t.Context(), "work", never)
	if err != nil || second == nil {
		t.Fatal(err)
	}
	second()
	other, err := c.Once(t.Context(), "other work", never)
	if err != nil || other == nil {
		t.Fatal(err)
	}
	other()
	noLeftovers(t, c.Dir())
}

func TestOnceCancelled(t *testing.T) {
	c := open(t, "", nil)
	release, err := c.Once(t.Context(), "work", never)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if again, err := c.Once(ctx, "work", never); again != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %v to hear of the end of the context", took)
	}
	if _, err := c.Once(ctx, "other", never); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

// TestDeadLeader wants the lease of a process that is gone, or of another host that gives no sign, to be taken
// over, by one.
func TestDeadLeader(t *testing.T) {
	old := time.Now().Add(-2 * time.Minute)
	for _, tt := range []struct {
		name string
		lead func(c *cache.Cache) // prepares the leader to be
		then func(path string) error
	}{
		{"dead process", func(c *cache.Cache) { c.SetPID(nobody) }, nil},
		{"another host", func(c *cache.Cache) { c.SetHost("elsewhere.0") }, func(path string) error { return os.Chtimes(path, old, old) }},
		{"another process with the pid", nil, func(path string) error {
			text := fmt.Sprintf(`{"host":%q,"pid":%d,"start":"1"}`, cache.ThisHost(), os.Getpid())
			return os.WriteFile(path, []byte(text), 0o600)
		}},
		{"nonsense", nil, func(path string) error {
			return errors.Join(os.WriteFile(path, []byte("{"), 0o600), os.Chtimes(path, old, old))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := open(t, "", nil)
			if tt.lead != nil {
				tt.lead(c)
			}
			release, err := c.Once(t.Context(), "work", never)
			if err != nil {
				t.Fatal(err)
			}
			defer release() // only ends the heartbeat: by then the lease is not ours
			if tt.then != nil {
				if err := tt.then(c.LeasePath("work")); err != nil {
					t.Fatal(err)
				}
			}
			if n := herd(t, c.Dir()); n != 1 {
				t.Errorf("%d were chosen", n)
			}
		})
	}
}

// TestDeadGuard wants a process that died while it took over not to be in the way.
func TestDeadGuard(t *testing.T) {
	c := open(t, "", nil)
	c.SetPID(nobody)
	if _, err := c.Once(t.Context(), "work", never); err != nil {
		t.Fatal(err)
	}
	lease := c.LeasePath("work")
	if err := os.Link(lease, lease+".guard"); err != nil {
		t.Fatal(err)
	}
	if n := herd(t, c.Dir()); n != 1 {
		t.Errorf("%d were chosen", n)
	}
}

// TestLivingLeader wants a leader to be let alone as long as its heart beats, and not to mistake another's
// lease for its own.
func TestLivingLeader(t *testing.T) {
	c := open(t, "", nil)
	c.SetHost("elsewhere.0")
	c.SetLease(5*time.Millisecond, time.Minute, time.Hour)
	release, err := c.Once(t.Context(), "work", never)
	if err != nil {
		t.Fatal(err)
	}
	path := c.LeasePath("work")
	old := time.Now().Add(-30 * time.Second)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if time.Since(info.ModTime()) < 20*time.Second {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no heartbeat")
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("somebody else's"), 0o600)); err != nil {
		t.Fatal(err)
	}
	release()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("removed a lease that was not its own: %v", err)
	}
}

// TestLeaseTrouble wants whatever is wrong with a lease to mean: go ahead.
func TestLeaseTrouble(t *testing.T) {
	goesAhead := func(t *testing.T, c *cache.Cache) {
		t.Helper()
		release, err := c.Once(t.Context(), "work", never)
		if err != nil || release == nil {
			t.Fatalf("%v", err)
		}
		release()
	}
	for _, op := range []string{"mkdir", "create", "write", "close", "link"} {
		c := open(t, "", nil)
		c.SetHook(func(did, path string, do func() error) error {
			if did == op {
				return &fs.PathError{Op: op, Path: path, Err: syscall.EACCES}
			}
			return do()
		})
		goesAhead(t, c)
	}
	for name, plant := range map[string]func(path string) error{
		"fifo":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"symlink":   func(path string) error { return os.Symlink("/dev/null", path) },
		"writable by all": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, 0o666))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, "", nil)
			path := c.LeasePath("work")
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), plant(path)); err != nil {
				t.Fatal(err)
			}
			goesAhead(t, c)
		})
	}
	t.Run("no end", func(t *testing.T) {
		c := open(t, "", nil)
		release, err := c.Once(t.Context(), "work", never)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		hasty := open(t, c.Dir(), nil)
		hasty.SetLease(time.Hour, time.Hour, 30*time.Millisecond)
		goesAhead(t, hasty)
	})
}
