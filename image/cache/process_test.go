package cache_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hpcimg/image/cache"
)

// childEnv makes this test binary one of the processes that share a cache: "<mode> <directory>".
const childEnv = "HPCIMG_CACHE_TEST_CHILD"

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		mode, dir, _ := strings.Cut(text, " ")
		if err := child(mode, dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(mode, dir string) error {
	c, err := cache.Open(dir, nil)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if mode == "once" {
		_, _ = io.Copy(io.Discard, os.Stdin) // all start together
		return convertOnce(c)
	}
	for i := uint64(0); ; i++ { // until killed
		if err := useAny(c, rand.New(rand.NewPCG(i, uint64(os.Getpid())))); err != nil {
			return err
		}
	}
}

// shared are the keys that the processes fight for.
func shared() []string {
	return []string{key("s1"), key("s2"), key("s3"), key("s4")}
}

// useAny does what a conversion does: look, and make what is not there.
func useAny(c *cache.Cache, r *rand.Rand) error {
	ctx := context.Background()
	k := shared()[r.IntN(4)]
	kind := []cache.Kind{cache.KindIndex, cache.KindSegment, cache.KindBlob}[r.IntN(3)]
	data, meta := contents(k)
	if kind == cache.KindBlob {
		k, meta = blobKey(data), nil
	}
	if r.IntN(8) == 0 {
		return c.Remove(kind, k)
	}
	if r.IntN(32) == 0 {
		_, err := c.Clean(ctx, &cache.CleanOptions{All: true})
		return err
	}
	release, err := c.Once(ctx, k, func() bool { return r.IntN(4) == 0 })
	if err != nil {
		return err
	}
	if release != nil {
		defer release()
	}
	e, err := c.Get(ctx, kind, k)
	if errors.Is(err, fs.ErrNotExist) {
		e, err = tryStore(c, kind, k, data, meta)
	}
	if err != nil {
		return err
	}
	defer e.Close()
	return compareEntry(e, data, meta)
}

// convertOnce makes one entry unless somebody else does, and says what it did.
func convertOnce(c *cache.Cache) error {
	ctx := context.Background()
	k := shared()[0]
	data, meta := contents(k)
	have := func() bool {
		e, err := c.Get(ctx, cache.KindSegment, k)
		if err != nil {
			return false
		}
		e.Close()
		return true
	}
	release, err := c.Once(ctx, "the work", have)
	if err != nil {
		return err
	}
	if release == nil {
		fmt.Println("found")
		e, err := c.Get(ctx, cache.KindSegment, k)
		if err != nil {
			return err
		}
		defer e.Close()
		return compareEntry(e, data, meta)
	}
	defer release()
	fmt.Println("made")
	time.Sleep(50 * time.Millisecond)
	e, err := tryStore(c, cache.KindSegment, k, data, meta)
	if err != nil {
		return err
	}
	defer e.Close()
	return compareEntry(e, data, meta)
}

// process is a running child.
type process struct {
	*exec.Cmd
	start io.Closer
	out   *bufio.Reader
}

// spawn starts a child and waits until it has opened the cache.
func spawn(t *testing.T, mode, dir string) process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childEnv+"="+mode+" "+dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := process{cmd, stdin, bufio.NewReader(stdout)}
	if line, err := p.out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("child: %q, %v", line, err)
	}
	return p
}

// TestProcesses wants one of 16 processes to do the work, and all to have the result.
func TestProcesses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	var children []process
	for range 16 {
		children = append(children, spawn(t, "once", dir))
	}
	for _, p := range children {
		p.start.Close()
	}
	made := 0
	for _, p := range children {
		line, _ := p.out.ReadString('\n')
		if line == "made\n" {
			made++
		}
		if err := p.Wait(); err != nil {
			t.Errorf("child: %v", err)
		}
	}
	if made != 1 {
		t.Errorf("%d processes did the work", made)
	}
	noLeftovers(t, dir)
}

// TestKill kills processes at any moment, and wants nothing wrong to be found by those that go on, or afterwards.
func TestKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	rounds := 100
	if testing.Short() {
		rounds = 20
	}
	witness := spawn(t, "churn", dir)
	for range rounds {
		victim := spawn(t, "churn", dir)
		time.Sleep(rand.N(10 * time.Millisecond))
		if err := victim.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := victim.Wait(); !strings.Contains(fmt.Sprint(err), "killed") {
			t.Fatalf("a victim ended before it was killed: %v", err)
		}
	}
	if err := witness.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := witness.Wait(); !strings.Contains(fmt.Sprint(err), "killed") {
		t.Fatalf("the witness ended: %v", err)
	}

	c := open(t, dir, nil)
	temps := 0
	for _, name := range tree(t, dir) {
		if strings.HasPrefix(filepath.Base(name), ".") {
			temps++
		}
	}
	result, err := c.Clean(t.Context(), nil)
	if err != nil || result.Leftovers != temps {
		t.Errorf("%d leftovers removed of %d, %v", result.Leftovers, temps, err)
	}
	noLeftovers(t, dir)
	for _, k := range shared() {
		data, meta := contents(k)
		for kind, name := range map[cache.Kind]string{cache.KindIndex: k, cache.KindSegment: k, cache.KindBlob: blobKey(data)} {
			e, err := c.Get(t.Context(), kind, name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			want := meta
			if kind == cache.KindBlob {
				want = nil
			}
			checkEntry(t, e, data, want)
			e.Close()
		}
	}
	verified, err := c.Verify(t.Context(), nil)
	if err != nil || len(verified.Corrupt) > 0 {
		t.Errorf("%+v, %v", verified, err)
	}
}

// TestGoroutines makes 64 of them store and read one entry of each kind at once, each by a handle of its own.
func TestGoroutines(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	data, meta := contents(shared()[0])
	log, heard := logged()
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			c, err := cache.Open(dir, &cache.Options{Logger: log})
			if err != nil {
				t.Error(err)
				return
			}
			kind, k, m := cache.KindSegment, key("a"), meta
			if i%2 == 0 {
				kind, k, m = cache.KindBlob, blobKey(data), nil
			}
			e, err := c.Get(t.Context(), kind, k)
			if err != nil {
				e, err = tryStore(c, kind, k, data, m)
			}
			if err == nil {
				err = errors.Join(compareEntry(e, data, m), e.Close())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	noLeftovers(t, dir)
	if names := tree(t, dir); len(names) != 4 {
		t.Errorf("there are %q, want two entries and two side files", names)
	}
	if heard.Len() > 0 {
		t.Error(heard)
	}
}
