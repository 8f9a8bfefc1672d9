//go:build linux

package conformance_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hpcimg/image/cache"
)

// kills is how many processes a test ends before their time.
func kills() int {
	switch {
	case *long:
		return 200
	case testing.Short():
		return 6
	}
	return 24
}

// victim is a conversion in a process that is not going to see its end.
type victim struct {
	name string
	args []string // beside source and destination
	old  bool     // there is a file to be replaced
}

// attack starts a conversion and sends its process a signal after some time. It returns whether the process reached its end, and what
// it had to say: "" if the signal left it no time, which before main is so with any signal.
func attack(t *testing.T, s *subject, v victim, dst string, after time.Duration, sig syscall.Signal) (finished bool, text string) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(commandLine(t), append(append([]string{"convert", "-q"}, v.args...), s.reference(), dst)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Signal(sig) })
	defer timer.Stop()
	late := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !late.Stop() {
		t.Errorf("%s: not over after 30 s", v.name)
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && !status.Signaled() && out.Len() == 0 {
		out.WriteString("(nothing)")
	}
	return err == nil, out.String()
}

// span returns how long an undisturbed conversion takes.
func span(t *testing.T, s *subject, args ...string) time.Duration {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "out.sif")
	begin := time.Now()
	s.run(t, append(append([]string{"convert", "-q"}, args...), s.reference(), dst)...)
	return time.Since(begin)
}

// TestKill ends conversions at random moments, in the ways that leave them a last word and the one that does not. The destination is then what it was
// before or what it should be, and nothing else is there; a cache that they were writing to serves the next one.
func TestKill(t *testing.T) {
	s := makeSubject(t)
	dir := t.TempDir()
	cacheDir := filepath.Join(t.TempDir(), "cache")
	span(t, s, "--cache-dir", cacheDir) // afterwards the source is in memory too
	cold, warm := span(t, s, "--no-cache"), span(t, s, "--cache-dir", cacheDir)
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	victims := []victim{
		{"no cache", []string{"--no-cache"}, false},
		{"cache", []string{"--cache-dir", cacheDir}, false},
		{"replacing", []string{"--no-cache", "--force"}, true},
		{"replacing, cache", []string{"--cache-dir", cacheDir, "--force"}, true},
	}
	ended := make(map[syscall.Signal]int)
	for i := range kills() {
		v := victims[i%len(victims)]
		sig := []syscall.Signal{syscall.SIGKILL, syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT}[i/len(victims)%4]
		dst := filepath.Join(dir, "out.sif")
		const old = "an older version\n"
		if v.old {
			if err := os.WriteFile(dst, []byte(old), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		whole := cold
		if i%8 >= 4 && v.args[0] == "--cache-dir" {
			whole = warm
		}
		if i%8 < 4 { // every other time the cache is empty
			if err := os.RemoveAll(cacheDir); err != nil {
				t.Fatal(err)
			}
		}
		after := time.Duration(rng.Int64N(int64(whole) * 11 / 10))
		finished, text := attack(t, s, v, dst, after, sig)
		if strings.HasPrefix(text, dst+": ") {
			finished = true // the signal came between its last word and its end
		}
		where := fmt.Sprintf("%s, %v after %v", v.name, sig, after)
		if !finished {
			ended[sig]++
		}
		checkVictim(t, s, where, dst, v, finished, old)
		if !finished && text != "" && !strings.HasPrefix(text, "hpcimg: ") {
			t.Errorf("%s: no explanation: %q", where, text)
		}
		checkSurvivor(t, s, where, v, dir)
		if t.Failed() {
			t.Fatalf("after %d of %d", i+1, kills())
		}
	}
	if s.leftovers > 1 {
		t.Errorf("%d temporary files were left", s.leftovers)
	}
	all := ended[syscall.SIGKILL] + ended[syscall.SIGTERM] + ended[syscall.SIGINT]
	t.Logf("%d of %d conversions, of %v or with a cache %v, were ended before their time, %d of them with SIGKILL",
		all, kills(), cold, warm, ended[syscall.SIGKILL])
	if all < kills()/4 {
		t.Error("too few to mean anything")
	}
	checkCache(t, cacheDir)
}

// checkVictim looks at what a conversion has left of the destination.
func checkVictim(t *testing.T, s *subject, where, dst string, v victim, finished bool, old string) {
	t.Helper()
	data, err := os.ReadFile(dst)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if finished || v.old {
			t.Errorf("%s: there is no destination", where)
		}
		s.onlyFiles(t, filepath.Dir(dst))
		return
	case err != nil:
		t.Fatal(err)
	}
	s.onlyFiles(t, filepath.Dir(dst), filepath.Base(dst))
	if v.old && string(data) == old {
		if finished {
			t.Errorf("%s: not replaced", where)
		}
	} else if s.check(t, dst); t.Failed() {
		t.Errorf("%s: %d bytes", where, len(data))
	}
	if err := os.Remove(dst); err != nil {
		t.Fatal(err)
	}
}

// checkSurvivor converts with what the dead have left in the cache.
func checkSurvivor(t *testing.T, s *subject, where string, v victim, dir string) {
	t.Helper()
	if v.args[0] != "--cache-dir" {
		return
	}
	dst := filepath.Join(dir, "next.sif")
	s.run(t, append(append([]string{"convert", "-q"}, v.args...), s.reference(), dst)...)
	if s.check(t, dst); t.Failed() {
		t.Errorf("%s: the conversion after it", where)
	}
	if err := os.Remove(dst); err != nil {
		t.Fatal(err)
	}
}

// checkCache makes sure that all that is in a cache is sound, and that what the dead were writing goes away.
func checkCache(t *testing.T, dir string) {
	t.Helper()
	c, err := cache.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	report, err := c.Verify(t.Context(), nil)
	if err != nil || len(report.Corrupt) > 0 {
		t.Errorf("the cache afterwards: %+v, %v", report, err)
	}
	if _, err := c.Clean(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), ".part-") {
			t.Errorf("%s is left in the cache", d.Name())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
