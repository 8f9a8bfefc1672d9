package runtime_test

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	hpcrun "hpcimg/runtime"
	"hpcimg/runtime/seccomp"
)

// filter refuses the system calls of the given numbers with EXDEV, which they do not fail with by themselves.
func filter(numbers ...uint32) []byte {
	var b []byte
	add := func(code uint16, jt, jf byte, k uint32) {
		b = binary.NativeEndian.AppendUint32(append(binary.NativeEndian.AppendUint16(b, code), jt, jf), k)
	}
	add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, 0)
	for _, nr := range numbers {
		add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 0, 1, nr)
		add(unix.BPF_RET|unix.BPF_K, 0, 0, 0x00050000|uint32(unix.EXDEV)) // SECCOMP_RET_ERRNO
	}
	add(unix.BPF_RET|unix.BPF_K, 0, 0, 0x7fff0000) // SECCOMP_RET_ALLOW
	return b
}

func TestSeccomp(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		spec.Seccomp = filter(unix.SYS_READLINKAT, readlinkNumber())
		spec.Args = sh("echo ran; readlink -v /proc/self/exe 2>&1 || true; cat /proc/self/status")
		out := mustOutput(t, spec)
		if !strings.HasPrefix(out, "ran\n") || strings.Contains(out, "/bin/readlink\n") || !strings.Contains(out, "Seccomp:\t2") {
			t.Errorf("got %q", out)
		}
		// One that forbids the execution of the command.
		spec.Seccomp = filter(unix.SYS_EXECVE)
		_, err := output(t, spec)
		if e, ok := errors.AsType[*hpcrun.SetupError](err); !ok || !e.Exec || !errors.Is(err, unix.EXDEV) {
			t.Errorf("execve forbidden: %v", err)
		}
	})
}

// TestSeccompProfile runs commands under profiles in JSON: what is denied fails with the error of the profile, and the rest works.
func TestSeccompProfile(t *testing.T) {
	t.Parallel()
	denying := `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
		{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18},
		{"names": ["symlink", "symlinkat"], "action": "SCMP_ACT_KILL_PROCESS"},
		{"names": ["fchmodat", "chmod"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]}`
	compile := func(t *testing.T, profile []byte) []byte {
		f, err := seccomp.Compile(profile, nil)
		mustAll(t, err)
		return f.Program
	}
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		spec.Contain = hpcrun.ContainFiles
		spec.Seccomp = compile(t, []byte(denying))
		spec.Args = sh("mkdir /tmp/a 2>&1 || echo failed; touch /tmp/b; ls -d /tmp/a /tmp/b 2>/dev/null; true")
		if out := mustOutput(t, spec); out != "mkdir: cannot create directory '/tmp/a': Invalid cross-device link\nfailed\n/tmp/b\n" &&
			out != "mkdir: cannot create directory ‘/tmp/a’: Invalid cross-device link\nfailed\n/tmp/b\n" {
			t.Errorf("got %q", out)
		}
		// The profile that Podman runs everything with.
		profile, err := os.ReadFile("/usr/share/containers/seccomp.json")
		oracle.Need(t, oracle.NeedTools, err)
		spec.Seccomp = compile(t, profile)
		spec.Args = sh("mkdir /tmp/a && touch /tmp/a/b && rm -r /tmp/a && id -u && echo $(echo pipes | cat)")
		if out := mustOutput(t, spec); !strings.HasSuffix(out, "\npipes\n") {
			t.Errorf("under the default profile: %q", out)
		}
	})
}

func TestSeccompErrors(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]hpcrun.Spec{
		"part of an instruction": {Seccomp: make([]byte, 12)},
		"too long":               {Seccomp: make([]byte, 8*4097)},
		"new privileges":         {Seccomp: filter(), AllowNewPrivileges: true},
	} {
		spec.Image, spec.Args = hpcrun.Image{Path: rootDir()}, []string{"true"}
		if _, err := hpcrun.Compile(t.Context(), &spec); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
