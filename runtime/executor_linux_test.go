package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"hpcimg/internal/oracle"
	hpcrun "hpcimg/runtime"
)

// TestExecutors runs the same plans with each executor, on each backend.
func TestExecutors(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		for _, e := range []hpcrun.Executor{hpcrun.ExecutorMemfd, hpcrun.ExecutorFork} {
			spec.Args = sh("cat /etc/marker; umask; touch /x 2>/dev/null || echo read-only; exit 4")
			cmd := &hpcrun.Cmd{Spec: &spec, Executor: e}
			out, err := cmd.Output(t.Context())
			if errors.Is(err, errors.ErrUnsupported) {
				oracle.Need(t, oracle.NeedUserNS, err)
			}
			lines := strings.Fields(string(out))
			if len(lines) != 3 || lines[0] != "image" || lines[2] != "read-only" || hpcrun.ExitCode(err) != 4 || cmd.Process.Executor() != e {
				t.Errorf("%s: %q, %v", e, out, err)
			}
			writable := spec
			writable.Overlay, writable.Args = hpcrun.Overlay{Tmpfs: true}, sh("echo changed >/etc/marker && cat /etc/marker")
			if out, err := (&hpcrun.Cmd{Spec: &writable, Executor: e}).Output(t.Context()); string(out) != "changed\n" {
				t.Errorf("%s, overlay: %q, %v", e, out, err)
			}
			spec.Args = []string{"no-such-program"}
			_, err = (&hpcrun.Cmd{Spec: &spec, Executor: e}).Output(t.Context())
			if failed, ok := errors.AsType[*hpcrun.SetupError](err); !ok || !failed.Exec || !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", e, err)
			}
		}
	})
}

// TestExecutorUnknown: one that there is not, and one that a plan cannot do with.
func TestExecutorUnknown(t *testing.T) {
	t.Parallel()
	namespaces(t)
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Args: []string{"true"}}
	if err := (&hpcrun.Cmd{Spec: &spec, Executor: "x"}).Run(t.Context()); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("unknown: %v", err)
	}
	spec.Namespaces.PID = true
	if err := (&hpcrun.Cmd{Spec: &spec, Executor: hpcrun.ExecutorMemfd}).Run(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("with a PID namespace: %v", err)
	}
}

// TestTextBusy: a program that has just been unpacked is open for writing nowhere, though other goroutines fork meanwhile.
func TestTextBusy(t *testing.T) {
	t.Parallel()
	oracle.UserNS(t)
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	spec := hpcrun.Spec{
		Image: hpcrun.Image{Path: imageFile(), Backend: hpcrun.BackendExtract}, Args: []string{"true"}, Env: []string{"PATH=/usr/bin:/bin"},
		Namespaces: hpcrun.Namespaces{User: true},
	}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range rounds {
				if err := (&hpcrun.Cmd{Spec: &spec, Executor: hpcrun.ExecutorFork}).Run(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestMemory reads the limits of control groups of both versions.
func TestMemory(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, test := range []struct {
		name, own string
		files     map[string]string
		want      int64
	}{
		{"none", "0::/\n", nil, 1024 * mib},
		{"version 2", "0::/a/b\n", map[string]string{"a/memory.max": "104857600", "a/memory.current": "4857600", "a/b/memory.max": "max", "a/b/memory.current": "1"}, 100000000},
		{"version 1", "4:cpu,memory:/job/step\n1:name=systemd:/\n", map[string]string{
			"memory/job/memory.limit_in_bytes": "52428800", "memory/job/memory.usage_in_bytes": "42428800",
			"memory/job/step/memory.limit_in_bytes": "9223372036854771712", "memory/job/step/memory.usage_in_bytes": "4096",
		}, 10000000},
		{"version 1 in a container", "4:memory:/docker/x\n", map[string]string{"memory/memory.limit_in_bytes": "1048576", "memory/memory.usage_in_bytes": "0"}, mib},
		{"other controllers", "4:cpu:/x\n", map[string]string{"memory/x/memory.limit_in_bytes": "1", "memory/x/memory.usage_in_bytes": "0"}, 1024 * mib},
		{"nothing left", "0::/a\n", map[string]string{"a/memory.max": "5", "a/memory.current": "9"}, 0},
		{"junk", "junk\n\n0\n", nil, 1024 * mib},
	} {
		dir := t.TempDir()
		files := map[string]string{"proc/meminfo": "MemTotal: 1 kB\nMemAvailable:    1048576 kB\n", "proc/self/cgroup": test.own}
		for name, data := range test.files {
			files["cgroup/"+name] = data
		}
		for name, data := range files {
			name = filepath.Join(dir, name)
			mustAll(t, os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(data+"\n"), 0o644))
		}
		if got := hpcrun.MemoryOf(dir+"/proc", dir+"/cgroup"); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

// TestNoMemfd has a host that forbids programs in memory, which a PID namespace can be: commands run all the same, and who insists on such a
// program is told.
func TestNoMemfd(t *testing.T) {
	t.Parallel()
	oracle.Root(t)
	cmd := exec.Command("/proc/self/exe", rootDir())
	cmd.Env = []string{helpVar + "=noexec"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	out, err := cmd.CombinedOutput()
	if want := "ran by fork\nunsupported\n"; err != nil || string(out) != want {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
}

func withoutMemfd() int {
	if err := os.WriteFile("/proc/sys/vm/memfd_noexec", []byte("2"), 0); err != nil {
		fmt.Println(err)
		return 1
	}
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: os.Args[1]}, Args: sh("printf 'ran '"), Env: []string{"PATH=/bin"}}
	cmd := hpcrun.NewCmd(&spec)
	out, err := cmd.Output(context.Background())
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Printf("%sby %s\n", out, cmd.Process.Executor())
	if err := (&hpcrun.Cmd{Spec: &spec, Executor: hpcrun.ExecutorMemfd}).Run(context.Background()); errors.Is(err, errors.ErrUnsupported) {
		fmt.Println("unsupported")
	} else {
		fmt.Println(err)
	}
	return 0
}

// TestNoFUSE has a host without a FUSE device, one whose device is closed, and root's without the kernel's squashfs: images run all the same, and the plan
// says by what, what is in the way of anything better, and who can remove it.
func TestNoFUSE(t *testing.T) {
	t.Parallel()
	namespaces(t)
	closed := filepath.Join(t.TempDir(), "closed")
	mustAll(t, os.WriteFile(closed, nil, 0))
	uid, gid := os.Getuid(), os.Getgid()
	root, here := hpcrun.Facts{UID: uid, GID: gid, Admin: true}, hpcrun.Facts{UID: uid, GID: gid}
	bare := root
	bare.NoSquashfs = true
	for _, test := range []struct {
		name, device string
		facts        hpcrun.Facts
		backend      hpcrun.Backend
		notes        []string
	}{
		{"root without a device", "/no/fuse", root, hpcrun.BackendKernel, []string{"for root nothing is faster"}},
		{"a user without a device", "/no/fuse", here, hpcrun.BackendExtract, []string{"not backend kernel: only root", "not backend fuse: open /no/fuse: no such file", "modprobe fuse", "backend extract: unpacked"}},
		{"a user whose device is closed", closed, here, hpcrun.BackendExtract, []string{"not backend kernel: only root", "not backend fuse: open " + closed + ": permission denied", "chmod 0666 " + closed, "backend extract: unpacked"}},
		{"root without squashfs", "/no/fuse", bare, hpcrun.BackendExtract, []string{"not backend kernel: the kernel has no squashfs", "modprobe squashfs", "not backend fuse", "backend extract"}},
	} {
		if test.device == closed && uid == 0 {
			continue // to root nothing is closed
		}
		spec := hpcrun.Spec{Image: hpcrun.Image{Path: imageFile(), FUSEDevice: test.device}, Args: []string{"true"}, Env: []string{"PATH=/bin"}, Omit: hpcrun.Omit{Home: true}}
		plan, err := hpcrun.CompileOn(t.Context(), &spec, test.facts)
		mustAll(t, err)
		notes := strings.Join(plan.Notes(), "\n")
		if plan.Backend() != test.backend {
			t.Errorf("%s: by %s", test.name, plan.Backend())
		}
		for _, want := range test.notes {
			if !strings.Contains(notes, want) {
				t.Errorf("%s: no %q in\n%s", test.name, want, notes)
			}
		}
		if !test.facts.Admin || uid == 0 {
			p, err := plan.Start(t.Context(), nil)
			mustAll(t, err)
			if state, err := p.Wait(); err != nil || !state.Success() {
				t.Errorf("%s: %v, %v", test.name, state, err)
			}
		}
		mustAll(t, plan.Close())
		for _, backend := range []hpcrun.Backend{hpcrun.BackendFUSE, hpcrun.BackendSquashfuse} {
			spec.Image.Backend = backend
			if _, err := hpcrun.CompileOn(t.Context(), &spec, test.facts); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "an administrator can") {
				t.Errorf("%s, %s asked for: %v", test.name, backend, err)
			}
		}
	}
}
