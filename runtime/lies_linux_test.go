package runtime_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	hpcrun "hpcimg/runtime"
	"hpcimg/squashfs"
)

// TestTooBig has more variables and arguments than a kernel passes on.
func TestTooBig(t *testing.T) {
	t.Parallel()
	namespaces(t)
	many := make([]string, 220_000)
	for i := range many {
		many[i] = "V=" + strings.Repeat("x", 20)
	}
	long := strings.Repeat("x", 129<<10)
	for name, spec := range map[string]hpcrun.Spec{
		"variables": {Args: []string{"true"}, Env: many}, "arguments": {Args: append([]string{"true"}, many...)},
		"one variable": {Args: []string{"true"}, Env: []string{"V=" + long}}, "one argument": {Args: []string{"true", long}},
	} {
		for i, executor := range []hpcrun.Executor{hpcrun.ExecutorAuto, hpcrun.ExecutorFork} {
			if testing.Short() && i != len(spec.Args)%2 {
				continue
			}
			spec.Image, spec.Env = hpcrun.Image{Path: rootDir()}, append([]string{"PATH=/bin"}, spec.Env...)
			_, err := bounded(t, spec, executor)
			e, ok := errors.AsType[*hpcrun.SetupError](err)
			if !ok || !e.Exec || !errors.Is(err, unix.E2BIG) || hpcrun.ExitCode(err) != hpcrun.ExitNotExecutable || len(err.Error()) > 300 {
				t.Errorf("%s: %.300v", name, err)
			}
		}
	}
	// What just fits arrives whole.
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Args: append(sh(`echo $# ${#V} ${#1}`), many[:20_000]...), Env: []string{"PATH=/bin", "V=" + strings.Repeat("x", 100<<10)}}
	if got := mustOutput(t, spec); got != "20000 102400 22\n" {
		t.Errorf("got %q", got)
	}
}

// TestContainedDescriptors: a command that is contained in every way has the three standard descriptors, and what it can see
// of process 1 is not the memory of the caller.
func TestContainedDescriptors(t *testing.T) {
	t.Parallel()
	oracle.UserNS(t)
	dir, err := os.Open("/")
	mustAll(t, err)
	defer dir.Close()
	fd, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD, 60)
	mustAll(t, err)
	defer unix.Close(fd)
	for _, identity := range []hpcrun.Identity{hpcrun.IdentitySame, hpcrun.IdentityRoot} {
		spec := hpcrun.Spec{
			Image: hpcrun.Image{Path: rootDir()}, Env: []string{"PATH=/bin"}, Contain: hpcrun.ContainAll, Identity: identity, Namespaces: hpcrun.Namespaces{User: true},
			Args: sh(`ls /proc/$$/fd; for f in environ mem maps; do (: </proc/1/$f) 2>/dev/null && echo "$f can be read"; done; readlink /proc/1/exe; true`),
		}
		out := mustOutput(t, spec)
		fds := strings.FieldsSeq(out)
		for fd := range fds {
			if fd != "0" && fd != "1" && fd != "2" && fd != "10" { // 10 is the shell's
				t.Errorf("%s: %q", identity, out)
			}
		}
	}
}

// TestLies runs actions of images whose scripts are not what they should be.
func TestLies(t *testing.T) {
	t.Parallel()
	namespaces(t)
	root := smallImage(t)
	const name = "/.singularity.d/actions/exec"
	script := func(text string) func(string) error {
		return func(name string) error { return os.WriteFile(name, []byte(text), 0o755) }
	}
	link := func(target string) func(string) error {
		return func(name string) error { return os.Symlink(target, name) }
	}
	const good = "#!/bin/sh\nfor f in /.singularity.d/env/*.sh; do test -f $f && . $f; done\nexec \"$@\"\n"
	for _, test := range []struct {
		what   string
		action func(name string) error
		env    func(name string) error
		code   int
		is     error
	}{
		{"all in order", script(good), nil, 0, nil},
		{"none", func(string) error { return nil }, nil, hpcrun.ExitNotFound, os.ErrNotExist},
		{"not executable", func(name string) error { return os.WriteFile(name, []byte(good), 0o644) }, nil, hpcrun.ExitNotExecutable, os.ErrPermission},
		{"a directory", func(name string) error { return os.Mkdir(name, 0o755) }, nil, hpcrun.ExitNotExecutable, os.ErrPermission},
		{"a pipe", func(name string) error { return syscall.Mkfifo(name, 0o755) }, nil, hpcrun.ExitNotExecutable, os.ErrPermission},
		{"empty", script(""), nil, hpcrun.ExitNotExecutable, unix.ENOEXEC},
		{"no program", script("\x7fELF junk"), nil, hpcrun.ExitNotExecutable, unix.ENOEXEC},
		{"no interpreter", script("#!/no/such/sh\n"), nil, hpcrun.ExitNotFound, os.ErrNotExist},
		{"its own interpreter", script("#!" + name + "\n"), nil, hpcrun.ExitNotExecutable, unix.ELOOP},
		{"a link to itself", link("exec"), nil, hpcrun.ExitNotExecutable, unix.ELOOP},
		{"a link to nothing", link("/nowhere"), nil, hpcrun.ExitNotFound, os.ErrNotExist},
		{"exits", script("#!/bin/sh\nexit 42\n"), nil, 42, nil},
		{"dies", script("#!/bin/sh\nkill -9 $$\n"), nil, 128 + 9, nil},
		{"loops", script("#!/bin/sh\ntrap '' TERM INT HUP\nwhile :; do :; done\n"), nil, -1, context.DeadlineExceeded},
		{"its environment exits", script(good), script("exit 7\n"), 7, nil},
		{"its environment traps", script(good), script("trap 'exit 9' EXIT; set -u; unset nothing; exit 3\n"), 9, nil},
		{"its environment prints", script(good), script("echo junk >&2\n"), 0, nil},
		{"its environment is malformed", script(good), script("if then fi (\x00\xff\n"), 2, nil},
		{"its environment is a pipe", script(good), func(name string) error { return syscall.Mkfifo(name, 0o644) }, 0, nil},
		{"its environment leads out", script(good), link("/proc/1/environ"), -1, nil},
		{"its environment is huge", script(good), func(name string) error {
			return os.WriteFile(name, []byte(strings.Repeat("# nothing\n", 1<<17)), 0o644)
		}, 0, nil},
	} {
		env := test.env
		if env == nil {
			env = script("A=1\n")
		}
		mustAll(t, test.action(root+name), os.Remove(root+"/.singularity.d/env/10.sh"), env(root+"/.singularity.d/env/10.sh"))
		for _, contain := range []hpcrun.Contain{hpcrun.ContainNone, hpcrun.ContainAll} {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			if test.is == context.DeadlineExceeded {
				ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
			}
			spec := hpcrun.Spec{Image: hpcrun.Image{Path: root}, Env: []string{"PATH=/bin"}, Contain: contain, Args: hpcrun.ActionExec.Command([]string{"true"})}
			err := hpcrun.NewCmd(&spec).Run(ctx)
			if test.is != nil && !errors.Is(err, test.is) || test.code >= 0 && hpcrun.ExitCode(err) != test.code {
				t.Errorf("%s (%s): %v, code %d, want %d, %v", test.what, contain, err, hpcrun.ExitCode(err), test.code, test.is)
			}
			cancel()
		}
		mustAll(t, os.RemoveAll(root+name))
	}
	// What there is besides is nobody's business when a command starts.
	mustAll(t, os.Truncate(filepath.Join(root, ".singularity.d/labels.json"), 1<<30))
	start := time.Now()
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: root}, Env: []string{"PATH=/bin"}, Args: []string{"true"}}
	if err := hpcrun.NewCmd(&spec).Run(t.Context()); err != nil || time.Since(start) > 5*time.Second {
		t.Errorf("labels of 1 GiB: %v after %v", err, time.Since(start))
	}
}

// TestLongDirectory: planning reads a directory without an index from end to end, as it has to, but once for each name that it wants to know.
func TestLongDirectory(t *testing.T) {
	runtime.LockOSThread() // whose time is measured
	defer runtime.UnlockOSThread()
	image := filepath.Join(t.TempDir(), "image")
	mustAll(t, squashfs.Create(t.Context(), image, &squashfs.WriterOptions{Compression: squashfs.CompressionNone}, func(ctx context.Context, w *squashfs.Writer) error {
		err := w.Add(ctx, squashfs.Entry{Path: "!", Mode: 0o644}, nil)
		for i := range 100_000 {
			err = errors.Join(err, w.Add(ctx, squashfs.Entry{Path: fmt.Sprintf("#%07d", i), HardLink: "!"}, nil))
		}
		return err
	}))
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	mustAll(t, err)
	defer f.Close()
	var sb [96]byte
	_, err = f.ReadAt(sb[:], 0)
	mustAll(t, err)
	ref, table := binary.LittleEndian.Uint64(sb[32:]), binary.LittleEndian.Uint64(sb[64:])
	const header, extendedDir, indexes = 2, 8, 32 // of the metadata block; the type of the inode, and where the number of its index entries is
	inode := make([]byte, 40)
	at := int64(table + ref>>16 + header + ref&0xffff)
	_, err = f.ReadAt(inode, at)
	mustAll(t, err)
	if binary.LittleEndian.Uint16(inode) != extendedDir || binary.LittleEndian.Uint16(inode[indexes:]) == 0 {
		t.Fatalf("the root directory is %x", inode)
	}
	_, err = f.WriteAt(make([]byte, 2), at+indexes)
	mustAll(t, err)

	r, err := squashfs.Open(image, nil)
	mustAll(t, err)
	defer r.Close()
	const lookups = 8
	one := threadTime(t, func() {
		for range lookups {
			if _, err := r.Lstat("tmp"); !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		}
	}) / lookups
	all := threadTime(t, func() {
		// Planning only wants to be able to open the device.
		plan, err := hpcrun.Compile(t.Context(), &hpcrun.Spec{Image: hpcrun.Image{Path: image, Backend: hpcrun.BackendFUSE, FUSEDevice: image}, Args: []string{"true"}, Env: []string{"PATH=/bin"}})
		mustAll(t, err)
		mustAll(t, plan.Close())
	})
	if all > 60*one {
		t.Errorf("planning took %v, a name takes %v", all, one)
	}
}

// threadTime is how long this thread computes.
func threadTime(t *testing.T, f func()) time.Duration {
	t.Helper()
	now := func() time.Duration {
		var u unix.Rusage
		mustAll(t, unix.Getrusage(unix.RUSAGE_THREAD, &u))
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begin := now()
	f()
	return now() - begin
}
