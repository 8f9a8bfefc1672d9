package runtime_test

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	hpcrun "hpcimg/runtime"
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
