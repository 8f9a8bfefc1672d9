package oracle

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The needs that HPCIMG_REQUIRE can name.
const (
	NeedTools   = "tools"
	NeedRoot    = "root"
	NeedFUSE    = "fuse"
	NeedUserNS  = "userns"
	NeedNetwork = "network"
	NeedFS      = "fs"
)

// nobody is the uid and gid that a root test drops to. It is not 65534, which maps to "unmapped" in user namespaces and
// would hide a lost owner.
const nobody = 65533

// Need skips the test because of err, or fails it where HPCIMG_REQUIRE names the need. A nil err does nothing.
func Need(t testing.TB, need string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if required(os.Getenv("HPCIMG_REQUIRE"), need) {
		t.Fatalf("required %s: %v", need, err)
	}
	t.Skipf("%s: %v", need, err)
}

func required(list, need string) bool {
	return list == "1" || slices.Contains(strings.Split(list, ","), need)
}

// Tool returns the absolute path of an external program. Programs for administrators are found too, although they are not
// on the PATH of an ordinary user.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := lookup(name)
	Need(t, NeedTools, err)
	return path
}

func lookup(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return filepath.Abs(path)
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, sbinErr := exec.LookPath(filepath.Join(dir, name)); sbinErr == nil {
			return path, nil
		}
	}
	return "", err
}

// Run runs an external program and returns what it wrote to standard output. The test fails, with both outputs, when the
// program does.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := run(Tool(t, name), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func run(path string, args ...string) (string, error) {
	var stdout, stderr strings.Builder
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(path), strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// Root skips the test unless it runs as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	err := errors.New("this test needs effective uid 0")
	if os.Getenv("HPCIMG_USER_RUN") == "1" {
		t.Skip(err)
	}
	Need(t, NeedRoot, err)
}

// NotRoot skips the test when it runs as root, whom no permission bits bind. The ordinary user's run has it.
func NotRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		t.Skip("this test needs an ordinary user")
	}
}

// Once skips the test in the ordinary user's run when the suite runs twice: for tests of the source, whose answer does not
// depend on who asks.
func Once(t testing.TB) {
	t.Helper()
	if os.Getenv("HPCIMG_USER_RUN") == "1" {
		t.Skip("the run as root has this test")
	}
}

// Short skips the test under -short, for the reason given.
func Short(t testing.TB, reason string) {
	t.Helper()
	if testing.Short() {
		t.Skipf("short: %s", reason)
	}
}

// User returns the ids of an ordinary user: a uid and gid that a root test may drop to, or the test's own.
func User(t testing.TB) (uid, gid int) {
	t.Helper()
	if os.Geteuid() == 0 {
		return nobody, nobody
	}
	return os.Geteuid(), os.Getegid()
}

// UserDir returns a new temporary directory that the user of [User] owns and can reach. The directories of t.TempDir are
// closed to everybody but the test's own user.
func UserDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hpcimg-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing the user's directory: %v", err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if uid, gid := User(t); os.Geteuid() == 0 {
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
