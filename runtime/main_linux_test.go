package runtime_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hpcimg/internal/elfclosure"
	"hpcimg/internal/oracle"
	hpcrun "hpcimg/runtime"
	"hpcimg/squashfs"
)

// programs make up the image of the tests, with what they need.
var programs = []string{"sh", "cat", "chown", "env", "false", "id", "ls", "mkdir", "readlink", "rm", "sleep", "stat", "touch", "true"}

// The image as a directory and as a file; made once, for all tests.
const (
	rootVar = "HPCIMG_TEST_ROOT" // a directory with "root" and "image.sqfs"
	helpVar = "HPCIMG_TEST_HELP" // makes the binary something that a test runs
	// For what it runs: the directory of a session, whether it makes a user namespace as root too, the executor.
	sessionVar  = "HPCIMG_TEST_SESSION"
	userVar     = "HPCIMG_TEST_USER"
	executorVar = "HPCIMG_TEST_EXECUTOR"
)

var long = flag.Bool("long", false, "all places, calls and ranks, not a selection of them")

// selection says whether a selection will do: what takes minutes is for who asks for it.
func selection() bool { return testing.Short() || !*long }

func TestMain(m *testing.M) {
	if os.Getenv(helpVar) != "" {
		os.Exit(help())
	}
	os.Exit(withImage(m.Run))
}

func withImage(run func() int) int {
	dir, err := os.MkdirTemp("", "hpcimg-runtime-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = makeImage(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "making the image of the tests:", err)
		return 1
	}
	os.Setenv(rootVar, dir)
	return run()
}

func makeImage(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	root := filepath.Join(dir, "root")
	for _, d := range []string{"etc", "proc", "sys", "dev", "tmp", "var/tmp", "root", "bin", "opt/deep"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for name, data := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n", "etc/resolv.conf": "", "etc/hosts": "",
		"etc/marker": "image\n", "opt/text": "no program\n", "opt/script": "#!/nowhere/interpreter\n",
	} {
		mode := os.FileMode(0o644)
		if name == "opt/script" {
			mode = 0o755
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(data), mode); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{"opt/up": "../../../../../..", "opt/abs": "/opt/deep", "run": "var/run"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			return err
		}
	}
	if err := copyPrograms(root); err != nil {
		return err
	}
	return squashfs.Create(context.Background(), filepath.Join(dir, "image.sqfs"), nil, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromDir(ctx, root, nil)
	})
}

func copyPrograms(root string) error { return copySome(root, programs...) }

func copySome(root string, programs ...string) error {
	var paths []string
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			return err
		}
		paths = append(paths, path)
	}
	files, err := elfclosure.Closure(paths...)
	if err != nil {
		return err
	}
	for _, file := range files {
		to := filepath.Join(root, file)
		if slices.Contains(paths, file) {
			to = filepath.Join(root, "bin", filepath.Base(file))
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, data, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func rootDir() string   { return filepath.Join(os.Getenv(rootVar), "root") }
func imageFile() string { return filepath.Join(os.Getenv(rootVar), "image.sqfs") }

// backend is a way to run; need skips the test where it cannot work.
type backend struct {
	name  string
	image hpcrun.Image
	need  func(testing.TB)
	user  bool // in a user namespace even as root
}

func namespaces(t testing.TB) {
	if os.Geteuid() != 0 {
		oracle.UserNS(t)
	}
}

// fuseDevice is a device that this user can open; empty if there is none.
func fuseDevice(t testing.TB) string {
	for _, device := range []string{os.Getenv("HPCIMG_FUSE"), "/dev/fuse"} {
		if f, err := os.OpenFile(device, os.O_RDWR, 0); err == nil {
			f.Close()
			return device
		}
	}
	return ""
}

func fuse(t testing.TB) {
	if fuseDevice(t) == "" {
		oracle.FUSE(t)
	}
	oracle.UserNS(t)
}

func squashfuse(t testing.TB) {
	fuse(t)
	oracle.Tool(t, "squashfuse_ll")
}

func backends(t testing.TB) []backend {
	dir, file := rootDir(), imageFile()
	device := fuseDevice(t)
	all := []backend{
		{name: "directory", image: hpcrun.Image{Path: dir}, need: namespaces},
		{name: "directory in user namespace", image: hpcrun.Image{Path: dir}, need: oracle.UserNS, user: true},
		{name: "kernel", image: hpcrun.Image{Path: file, Backend: hpcrun.BackendKernel}, need: oracle.Root},
		{name: "memory", image: hpcrun.Image{Path: file, Backend: hpcrun.BackendExtract}, need: namespaces},
		{name: "memory in user namespace", image: hpcrun.Image{Path: file, Backend: hpcrun.BackendExtract}, need: oracle.UserNS, user: true},
		{name: "fuse", image: hpcrun.Image{Path: file, Backend: hpcrun.BackendFUSE, FUSEDevice: device}, need: fuse},
		{name: "fuse in user namespace", image: hpcrun.Image{Path: file, Backend: hpcrun.BackendFUSE, FUSEDevice: device}, need: fuse, user: true},
		{name: "squashfuse", image: hpcrun.Image{Path: file, Backend: hpcrun.BackendSquashfuse, FUSEDevice: device}, need: squashfuse},
		{name: "squashfuse in user namespace", image: hpcrun.Image{Path: file, Backend: hpcrun.BackendSquashfuse, FUSEDevice: device}, need: squashfuse, user: true},
		{name: "no FUSE device", image: hpcrun.Image{Path: file, FUSEDevice: rootDir() + "/no/device"}, need: namespaces},
		{name: "no FUSE device in user namespace", image: hpcrun.Image{Path: file, FUSEDevice: rootDir() + "/no/device"}, need: oracle.UserNS, user: true},
		{name: "disk", image: hpcrun.Image{Path: file, Backend: hpcrun.BackendExtract, ExtractDir: t.TempDir()}, need: namespaces},
	}
	if testing.Short() {
		return slices.DeleteFunc(all, func(b backend) bool {
			return b.name == "directory" || b.name == "fuse" || b.name == "memory in user namespace" || b.name == "squashfuse" || b.name == "no FUSE device in user namespace" || b.name == "disk"
		})
	}
	return all
}

// each runs a test with every backend.
func each(t *testing.T, test func(t *testing.T, spec hpcrun.Spec)) {
	for _, b := range backends(t) {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			b.need(t)
			test(t, hpcrun.Spec{Image: b.image, Env: []string{"PATH=/usr/bin:/bin"}, Namespaces: hpcrun.Namespaces{User: b.user}})
		})
	}
}

func sh(script string, args ...string) []string {
	return append([]string{"sh", "-c", script, "sh"}, args...)
}

// output runs a script and returns what it wrote, both streams together.
func output(t testing.TB, spec hpcrun.Spec) (string, error) {
	t.Helper()
	out, err := hpcrun.NewCmd(&spec).CombinedOutput(t.Context())
	return string(out), err
}

func mustOutput(t testing.TB, spec hpcrun.Spec) string {
	t.Helper()
	out, err := output(t, spec)
	if err != nil {
		t.Fatalf("%v: %v\n%s", spec.Args, err, out)
	}
	return out
}

// help is what a test runs to be able to kill it: it starts a command, says so, and waits.
func help() int {
	if os.Getenv(helpVar) == "impostor" {
		return impostor(os.Args[1], os.Args[2])
	}
	if os.Getenv(helpVar) == "fakeroot" {
		spec := fakeroot(os.Args[1])
		out, err := hpcrun.NewCmd(&spec).CombinedOutput(context.Background())
		os.Stdout.Write(out)
		if err != nil {
			fmt.Println(err)
		}
		return hpcrun.ExitCode(err)
	}
	if os.Getenv(helpVar) == "ask" {
		return ask()
	}
	if os.Getenv(helpVar) == "noexec" {
		return withoutMemfd()
	}
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: os.Args[1], Backend: hpcrun.Backend(os.Args[2]), FUSEDevice: os.Getenv("HPCIMG_FUSE")}, Args: []string{"sleep", "1000"}}
	if os.Getenv(helpVar) == "full" {
		return full(spec)
	}
	if os.Getenv(helpVar) == "files" {
		return manyFiles(spec)
	}
	if os.Getenv(helpVar) == "rounds" {
		return killCommands(&spec, os.Args[3])
	}
	var o hpcrun.StartOptions
	if dir := os.Getenv(sessionVar); dir != "" {
		var err error
		if o.Session, err = hpcrun.OpenSession(dir, "test"); err != nil {
			fmt.Println(err)
			return 1
		}
		spec.Shared = true
	}
	spec.Namespaces.User = os.Getenv(userVar) != ""
	spec.Env = os.Environ() // by which a test finds what it has left
	o.Executor = hpcrun.Executor(os.Getenv(executorVar))
	p, err := hpcrun.Start(context.Background(), &spec, &o)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("pid", p.PID())
	_, _ = p.Wait()
	return 0
}

// eventually waits for something that the kernel does in its own time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%s: still not so after five seconds", what)
}

// backing says whether a loop device shows the file.
func backing(file string) bool {
	names, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, name := range names {
		if data, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(data)) == file {
			return true
		}
	}
	return false
}
