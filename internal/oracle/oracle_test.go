package oracle_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/internal/oracle"
)

// recorder is a test that notes how it ended, since a test cannot watch itself being skipped.
type recorder struct {
	testing.TB
	ended string
}

func (r *recorder) Helper()                     {}
func (r *recorder) Skip(args ...any)            { r.end("skip: " + fmt.Sprint(args...)) }
func (r *recorder) Skipf(f string, args ...any) { r.end("skip: " + fmt.Sprintf(f, args...)) }
func (r *recorder) Fatal(args ...any)           { r.end("fatal: " + fmt.Sprint(args...)) }
func (r *recorder) Fatalf(f string, args ...any) {
	r.end("fatal: " + fmt.Sprintf(f, args...))
}

func (r *recorder) end(how string) {
	r.ended = how
	panic(r)
}

// outcome runs f as a test would and returns how it ended: "" when it went through.
func outcome(t *testing.T, f func(testing.TB)) string {
	r := &recorder{TB: t}
	func() {
		defer func() {
			if p := recover(); p != nil && p != any(r) {
				panic(p)
			}
		}()
		f(r)
	}()
	return r.ended
}

func TestNeed(t *testing.T) {
	for _, test := range []struct {
		name, require, want string
		err                 error
	}{
		{"nothing missing", "1", "", nil},
		{"a laptop", "", "skip: tools: gone", errors.New("gone")},
		{"everything required", "1", "fatal: required tools: gone", errors.New("gone")},
		{"named", "root,tools", "fatal: required tools: gone", errors.New("gone")},
		{"another named", "root", "skip: tools: gone", errors.New("gone")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("HPCIMG_REQUIRE", test.require)
			got := outcome(t, func(tb testing.TB) { oracle.Need(tb, oracle.NeedTools, test.err) })
			if got != test.want {
				t.Errorf("ended %q, want %q", got, test.want)
			}
		})
	}
}

func TestToolMissing(t *testing.T) {
	t.Setenv("HPCIMG_REQUIRE", "1")
	got := outcome(t, func(tb testing.TB) { oracle.Tool(tb, "no-such-program-here") })
	if !strings.HasPrefix(got, "fatal: required tools: ") || !strings.Contains(got, "no-such-program-here") {
		t.Errorf("ended %q", got)
	}
}

func TestToolFound(t *testing.T) {
	if path := oracle.Tool(t, "go"); !filepath.IsAbs(path) {
		t.Errorf("%q is not absolute", path)
	}
}

func TestRoot(t *testing.T) {
	t.Setenv("HPCIMG_REQUIRE", "1")
	t.Setenv("HPCIMG_USER_RUN", "")
	strict := outcome(t, func(tb testing.TB) { oracle.Root(tb) })
	t.Setenv("HPCIMG_USER_RUN", "1")
	user := outcome(t, func(tb testing.TB) { oracle.Root(tb) })
	if os.Geteuid() == 0 {
		if strict != "" || user != "" {
			t.Errorf("root was turned away: %q, %q", strict, user)
		}
		return
	}
	if !strings.HasPrefix(strict, "fatal: ") {
		t.Errorf("an ordinary user, all required: ended %q", strict)
	}
	if !strings.HasPrefix(user, "skip: ") {
		t.Errorf("the ordinary user's run: ended %q", user)
	}
}

func TestExactlyOneOfRootAndNotRoot(t *testing.T) {
	t.Setenv("HPCIMG_REQUIRE", "")
	root := outcome(t, func(tb testing.TB) { oracle.Root(tb) })
	notRoot := outcome(t, func(tb testing.TB) { oracle.NotRoot(tb) })
	if (root == "") == (notRoot == "") {
		t.Errorf("Root ended %q and NotRoot %q", root, notRoot)
	}
}

func TestShort(t *testing.T) {
	got := outcome(t, func(tb testing.TB) { oracle.Short(tb, "takes minutes") })
	if skipped := got == "skip: short: takes minutes"; skipped != testing.Short() {
		t.Errorf("ended %q with -short=%v", got, testing.Short())
	}
}

func TestOnce(t *testing.T) {
	t.Setenv("HPCIMG_USER_RUN", "")
	first := outcome(t, func(tb testing.TB) { oracle.Once(tb) })
	t.Setenv("HPCIMG_USER_RUN", "1")
	second := outcome(t, func(tb testing.TB) { oracle.Once(tb) })
	if first != "" || !strings.HasPrefix(second, "skip: ") {
		t.Errorf("ended %q, then %q", first, second)
	}
}
