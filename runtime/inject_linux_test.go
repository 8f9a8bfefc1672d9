package runtime_test

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	hpcrun "hpcimg/runtime"
)

// numbers are those of the system calls that plans are made of.
var numbers = map[string]uint32{
	"prctl": unix.SYS_PRCTL, "getppid": unix.SYS_GETPPID, "unshare": unix.SYS_UNSHARE, "openat": unix.SYS_OPENAT, "openat2": unix.SYS_OPENAT2, "write": unix.SYS_WRITE,
	"read": unix.SYS_READ, "sendmsg": unix.SYS_SENDMSG, "close": unix.SYS_CLOSE, "mkdirat": unix.SYS_MKDIRAT, "symlinkat": unix.SYS_SYMLINKAT, "dup3": unix.SYS_DUP3,
	"fcntl": unix.SYS_FCNTL, "chdir": unix.SYS_CHDIR, "fchdir": unix.SYS_FCHDIR, "umask": unix.SYS_UMASK, "sethostname": unix.SYS_SETHOSTNAME, "prlimit64": unix.SYS_PRLIMIT64,
	"rt_sigprocmask": unix.SYS_RT_SIGPROCMASK, "clone": unix.SYS_CLONE, "execve": unix.SYS_EXECVE, "mount": unix.SYS_MOUNT, "mount_setattr": unix.SYS_MOUNT_SETATTR,
	"pivot_root": unix.SYS_PIVOT_ROOT, "umount2": unix.SYS_UMOUNT2, "open_tree": unix.SYS_OPEN_TREE, "move_mount": unix.SYS_MOVE_MOUNT, "setns": unix.SYS_SETNS,
	"close_range": unix.SYS_CLOSE_RANGE,
}

// failing is a filter that has one system call fail with EXDEV, which none of them fails with by itself. The message by which
// a child tells of its failure is a write of 8 bytes, and passes.
func failing(nr uint32) []byte {
	var b []byte
	add := func(code uint16, jt, jf byte, k uint32) {
		b = binary.NativeEndian.AppendUint32(append(binary.NativeEndian.AppendUint16(b, code), jt, jf), k)
	}
	add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, 0)
	add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 1, 0, nr)
	add(unix.BPF_RET|unix.BPF_K, 0, 0, 0x7fff0000) // SECCOMP_RET_ALLOW
	if nr == unix.SYS_WRITE {
		add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, 32) // the low half of the third argument
		add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 0, 1, 8)
		add(unix.BPF_RET|unix.BPF_K, 0, 0, 0x7fff0000)
	}
	add(unix.BPF_RET|unix.BPF_K, 0, 0, 0x00050000|uint32(unix.EXDEV)) // SECCOMP_RET_ERRNO
	return b
}

// TestInjectedFailures makes every call of every kind of plan fail in turn, with each executor. The error has the call, its
// name and its path; nothing is left.
func TestInjectedFailures(t *testing.T) {
	for _, b := range backends(t) {
		t.Run(b.name, func(t *testing.T) {
			b.need(t)
			dir := t.TempDir()
			mustAll(t, os.Mkdir(dir+"/over", 0o755), os.Mkdir(dir+"/layer", 0o755), os.WriteFile(dir+"/lib", nil, 0o644))
			spec := hpcrun.Spec{
				Image: b.image, Args: []string{"true"}, Env: []string{"PATH=/no:/bin"}, Namespaces: hpcrun.Namespaces{User: b.user, Hostname: "node", IPC: true}, Dir: "/opt",
				Binds:      []hpcrun.Bind{{Source: dir, Target: "/not/there", ReadOnly: true}, {Source: dir + "/lib", Target: "/tmp/x"}},
				Injections: []hpcrun.Injection{{Name: "x", Libraries: []hpcrun.Library{{Source: dir + "/lib", Names: []string{"lib.so.1", "lib.so"}}}}},
				Contain:    hpcrun.ContainFiles,
			}
			plain := spec
			plain.Contain, plain.Namespaces.Hostname, plain.Namespaces.IPC, plain.Shared, plain.Dir = hpcrun.ContainNone, "", false, true, ""
			plain.Binds = plain.Binds[:1]
			plain.Overlay = hpcrun.Overlay{Dir: dir + "/over", Layers: []string{dir + "/layer"}}
			contained := spec
			contained.Contain, contained.Overlay = hpcrun.ContainAll, hpcrun.Overlay{Tmpfs: true}
			for name, spec := range map[string]hpcrun.Spec{"contained": spec, "shared, with an overlay": plain, "contained in every way": contained} {
				plan, err := hpcrun.Compile(t.Context(), &spec)
				mustAll(t, err)
				before := descriptors(t)
				injectAll(t, name, plan, spec.Contain == hpcrun.ContainAll)
				eventually(t, name+": descriptors are closed", func() bool { return descriptors(t) <= before })
				mustAll(t, plan.Close())
			}
			if names, _ := filepath.Glob(os.TempDir() + "/hpcimg-[0-9]*"); len(names) > 0 {
				t.Errorf("left: %v", names)
			}
		})
	}
}

func injectAll(t *testing.T, name string, plan *hpcrun.Plan, forkOnly bool) {
	calls := plan.Calls()
	for i, call := range calls {
		if selection() && i%13 != len(name)%13 || i > 0 && calls[i-1].Exec() { // those files are tried one after the other
			continue
		}
		executor := []hpcrun.Executor{hpcrun.ExecutorMemfd, hpcrun.ExecutorFork}[i/13%2]
		if forkOnly {
			executor = hpcrun.ExecutorFork
		}
		nr, ok := numbers[call.Name()]
		if !ok {
			t.Fatalf("%s: what is the number of %s?", name, call.Name())
		}
		proc, err := plan.Inject(i, failing(nr)).Start(t.Context(), &hpcrun.StartOptions{Executor: executor})
		if err == nil {
			if !strings.HasSuffix(call.String(), "|| true") {
				t.Errorf("%s, %s: call %d may fail: %v", name, executor, i, call)
			}
			_, _ = proc.Wait()
			continue
		}
		e, ok := errors.AsType[*hpcrun.SetupError](err)
		if ok && strings.HasSuffix(call.String(), "|| true") {
			continue // a later one of the same kind
		}
		chosen := strings.Contains(call.Path(), "/hpcimg-*/") // at the start
		if !ok || e.Index != i+2 || e.Call != call.String() && !chosen || e.Exec != call.Exec() || !errors.Is(err, unix.EXDEV) || !strings.Contains(err.Error(), call.Name()) {
			t.Errorf("%s, %s: call %d, %v: got %v", name, executor, i, call, err)
			continue
		}
		if path := call.Path(); path != "" && !chosen {
			if p, ok := errors.AsType[*fs.PathError](err); !ok || p.Path != path || p.Op != call.Name() {
				t.Errorf("%s, %s: call %d, %v: got %v, want the path %s", name, executor, i, call, err, path)
			}
		}
	}
}
