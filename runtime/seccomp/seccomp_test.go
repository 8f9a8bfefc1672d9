package seccomp_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"hpcimg/internal/oracle"
	"hpcimg/runtime/seccomp"
)

// Actions as the kernel has them.
const (
	allow  = 0x7fff0000
	enosys = 0x00050026
	eperm  = 0x00050001
)

// call is a system call as a filter sees it.
type call struct {
	nr   uint32
	arch uint32
	args [6]uint64
}

func (c call) word(at uint32) (uint32, bool) {
	b := binary.LittleEndian.AppendUint32(nil, c.nr)
	b = binary.LittleEndian.AppendUint32(b, c.arch)
	b = append(b, make([]byte, 8)...) // where it was made
	for _, a := range c.args {
		b = binary.LittleEndian.AppendUint64(b, a)
	}
	if at%4 != 0 || int(at)+4 > len(b) {
		return 0, false
	}
	return binary.LittleEndian.Uint32(b[at:]), true
}

// run is what the kernel would return for a call, and an error for what it would not run.
func run(program []byte, c call) (uint32, error) {
	var acc uint32
	for pc, steps := 0, 0; ; steps++ {
		if pc < 0 || 8*pc+8 > len(program) || steps > len(program) {
			return 0, fmt.Errorf("the program leaves itself at %d", pc)
		}
		i := program[8*pc : 8*pc+8]
		code, jt, jf, k := binary.LittleEndian.Uint16(i), int(i[2]), int(i[3]), binary.LittleEndian.Uint32(i[4:])
		pc++
		branch := func(taken bool) {
			if taken {
				pc += jt
			} else {
				pc += jf
			}
		}
		switch code {
		case 0x20:
			var ok bool
			if acc, ok = c.word(k); !ok {
				return 0, fmt.Errorf("load of %d", k)
			}
		case 0x54:
			acc &= k
		case 0x05:
			pc += int(k)
		case 0x15:
			branch(acc == k)
		case 0x25:
			branch(acc > k)
		case 0x35:
			branch(acc >= k)
		case 0x06:
			return k, nil
		default:
			return 0, fmt.Errorf("instruction %#x", code)
		}
	}
}

func audit(arch string) uint32 {
	if arch == "arm64" {
		return 0xc00000b7
	}
	return 0xc000003e
}

func compile(t *testing.T, profile string, o *seccomp.Options) []byte {
	t.Helper()
	f, err := seccomp.Compile([]byte(profile), o)
	if err != nil {
		t.Fatalf("%v\n%s", err, profile)
	}
	return f.Program
}

// TestActions looks at what is returned for calls of both machines.
func TestActions(t *testing.T) {
	t.Parallel()
	profile := `{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSYS", "defaultErrnoRet": 7, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
		{"names": ["read", "write", "open", "chown32", "exit_group"], "action": "SCMP_ACT_ALLOW"},
		{"name": "mkdirat", "action": "SCMP_ACT_ERRNO", "errnoRet": 18},
		{"names": ["mount"], "action": "SCMP_ACT_ERRNO"},
		{"names": ["kexec_load"], "action": "SCMP_ACT_KILL_PROCESS"},
		{"names": ["reboot"], "action": "SCMP_ACT_KILL"},
		{"names": ["ptrace"], "action": "SCMP_ACT_TRAP"},
		{"names": ["swapon"], "action": "SCMP_ACT_LOG"},
		{"names": ["swapoff"], "action": "SCMP_ACT_TRACE", "errnoRet": 5},
		{"names": ["write"], "action": "SCMP_ACT_ERRNO", "errno": "EACCES"},
		{"names": ["write"], "action": "SCMP_ACT_ALLOW"}]}`
	for arch, calls := range map[string]map[uint32]uint32{
		"amd64": {
			0: allow, 1: 0x0005000d, 2: allow, 231: allow, 258: 0x00050012, 165: eperm, 246: 0x80000000, 169: 0, 101: 0x00030000, 167: 0x7ffc0000,
			168: 0x7ff00005, 3: enosys, 9999: enosys, 0x3fffffff: enosys, 0x40000000: enosys, 0xffffffff: enosys, 92: enosys,
		},
		"arm64": {63: allow, 64: 0x0005000d, 94: allow, 34: 0x00050012, 40: eperm, 104: 0x80000000, 142: 0, 117: 0x00030000, 0: enosys, 1024: enosys},
	} {
		program := compile(t, profile, &seccomp.Options{Arch: arch})
		for nr, want := range calls {
			if got, err := run(program, call{nr: nr, arch: audit(arch)}); err != nil || got != want {
				t.Errorf("%s, call %d: %#x, %v, want %#x", arch, nr, got, err, want)
			}
		}
		for _, other := range []uint32{0, 0x40000003, 0xc000003e ^ 1} {
			if got, err := run(program, call{nr: 0, arch: other}); err != nil || got != enosys {
				t.Errorf("%s, machine %#x: %#x, %v", arch, other, got, err)
			}
		}
	}
	// A profile that forbids some calls lets nobody go round it by another machine's numbers.
	program := compile(t, `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]}`, &seccomp.Options{Arch: "amd64"})
	for c, want := range map[call]uint32{
		{nr: 165, arch: audit("amd64")}: eperm, {nr: 164, arch: audit("amd64")}: allow, {nr: 166, arch: audit("amd64")}: allow,
		{nr: 21, arch: 0x40000003}: enosys, {nr: 0x40000000 + 165, arch: audit("amd64")}: enosys, {nr: 0, arch: audit("amd64")}: allow,
	} {
		if got, err := run(program, c); err != nil || got != want {
			t.Errorf("%+v: %#x, %v, want %#x", c, got, err, want)
		}
	}
}

// holds is a condition, by the definition in the specification.
func holds(op string, arg, value, two uint64) bool {
	switch op {
	case "SCMP_CMP_NE":
		return arg != value
	case "SCMP_CMP_LT":
		return arg < value
	case "SCMP_CMP_LE":
		return arg <= value
	case "SCMP_CMP_EQ":
		return arg == value
	case "SCMP_CMP_GE":
		return arg >= value
	case "SCMP_CMP_GT":
		return arg > value
	}
	return arg&value == two
}

var operators = []string{"SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"}

// TestConditions tries all operators at values around each other, in both halves of 64 bits.
func TestConditions(t *testing.T) {
	t.Parallel()
	values := []uint64{0, 1, 5, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 1, 5 << 32, 5<<32 + 5, 1 << 63, 1<<64 - 1}
	for _, op := range operators {
		for _, value := range values {
			two := value & 0xff000000ff
			profile := fmt.Sprintf(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [
				{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 5, "value": %d, "valueTwo": %d, "op": %q}, {"index": 2, "value": 3, "op": "SCMP_CMP_NE"}]}]}`, value, two, op)
			program := compile(t, profile, &seccomp.Options{Arch: "amd64"})
			for _, arg := range append(values, two) {
				want := uint32(allow)
				if holds(op, arg, value, two) {
					want = eperm
				}
				if got, err := run(program, call{arch: audit("amd64"), args: [6]uint64{5: arg}}); err != nil || got != want {
					t.Errorf("%s %#x (%#x), argument %#x: %#x, %v, want %#x", op, value, two, arg, got, err, want)
				}
				if got, err := run(program, call{arch: audit("amd64"), args: [6]uint64{2: 3, 5: arg}}); err != nil || got != allow {
					t.Errorf("%s: the third condition does not hold: %#x, %v", op, got, err)
				}
			}
		}
	}
}

// TestContext has rules that count in certain places only.
func TestContext(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, rule string
		options    seccomp.Options
		applies    bool
	}{
		{"capability", `"includes": {"caps": ["CAP_SYS_ADMIN"]}`, seccomp.Options{Capabilities: []string{"CAP_SYS_ADMIN"}}, true},
		{"no capability", `"includes": {"caps": ["CAP_SYS_ADMIN"]}`, seccomp.Options{}, false},
		{"one of two", `"includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}`, seccomp.Options{Capabilities: []string{"CAP_BPF"}}, false},
		{"excluded", `"excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}`, seccomp.Options{Capabilities: []string{"CAP_BPF"}}, false},
		{"not excluded", `"excludes": {"caps": ["CAP_SYS_ADMIN"]}`, seccomp.Options{}, true},
		{"machine", `"includes": {"arches": ["amd64", "x32"]}`, seccomp.Options{}, true},
		{"other machine", `"includes": {"arches": ["s390x"]}`, seccomp.Options{}, false},
		{"excluded machine", `"excludes": {"arches": ["amd64"]}`, seccomp.Options{}, false},
		{"kernel", `"includes": {"minKernel": "4.8"}`, seccomp.Options{Kernel: "4.10.0-1.el7"}, true},
		{"old kernel", `"includes": {"minKernel": "4.8"}`, seccomp.Options{Kernel: "3.10.0"}, false},
		{"unknown kernel", `"includes": {"minKernel": "4.8"}`, seccomp.Options{}, true},
		{"excluded kernel", `"excludes": {"minKernel": "4.8"}`, seccomp.Options{Kernel: "6.1"}, false},
		{"excluded, unknown kernel", `"excludes": {"minKernel": "4.8"}`, seccomp.Options{}, true},
		{"not excluded kernel", `"excludes": {"minKernel": "4.8"}`, seccomp.Options{Kernel: "4.7"}, true},
	} {
		test.options.Arch = "amd64"
		profile := `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", ` + test.rule + `}]}`
		got, err := run(compile(t, profile, &test.options), call{arch: audit("amd64")})
		if err != nil || (got == eperm) != test.applies {
			t.Errorf("%s: %#x, %v", test.name, got, err)
		}
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	rule := func(rest string) string {
		return `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO"}, {` + rest + `}]}`
	}
	for _, test := range []struct{ name, profile, text string }{
		{"nothing", ``, "EOF"},
		{"no JSON", `x`, "invalid character"},
		{"a list", `[]`, "cannot unmarshal"},
		{"no default", `{}`, "defaultAction: missing"},
		{"more", `{"defaultAction": "SCMP_ACT_ALLOW"} {}`, "follows"},
		{"bad default", `{"defaultAction": "ALLOW"}`, `defaultAction: unknown action "ALLOW"`},
		{"bad action", rule(`"names": ["write"], "action": "allow"`), "syscalls[1].action"},
		{"no names", rule(`"action": "SCMP_ACT_ALLOW"`), "syscalls[1].names"},
		{"an empty name", rule(`"names": [""], "action": "SCMP_ACT_ALLOW"`), "syscalls[1].names"},
		{"an index", rule(`"names": ["write"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]`), "syscalls[1].args[0].index"},
		{"an operator", rule(`"names": ["write"], "action": "SCMP_ACT_ALLOW", "args": [{"op": "EQ"}]`), "syscalls[1].args[0].op"},
		{"a negative value", rule(`"names": ["write"], "action": "SCMP_ACT_ALLOW", "args": [{"value": -1, "op": "SCMP_CMP_EQ"}]`), "value"},
		{"an error", rule(`"names": ["write"], "action": "SCMP_ACT_ERRNO", "errno": "EWHAT"`), `unknown error "EWHAT"`},
		{"an error number", rule(`"names": ["write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096`), "4095"},
		{"a kernel", rule(`"names": ["write"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "new"}`), `minKernel "new"`},
	} {
		_, err := seccomp.Compile([]byte(test.profile), nil)
		if e, ok := errors.AsType[*seccomp.FormatError](err); !ok || !errors.Is(err, seccomp.ErrFormat) || !strings.Contains(e.Error(), test.text) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if _, err := seccomp.Compile([]byte(rule(`"names": ["write"], "action": "SCMP_ACT_NOTIFY"`)), nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("notify: %v", err)
	}
	if _, err := seccomp.Compile([]byte(rule(`"names": ["write"], "action": "SCMP_ACT_LOG"`)), &seccomp.Options{Arch: "vax"}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("another machine: %v", err)
	}
	test := `{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}`
	for what, profile := range map[string]string{
		"bytes":      `{"defaultAction": "SCMP_ACT_ALLOW", "comment": "` + strings.Repeat("x", 1<<20) + `"}`,
		"conditions": rule(`"names": ["write"], "action": "SCMP_ACT_LOG", "args": [` + test + strings.Repeat(", "+test, 16) + `]`),
		"rules": `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [` + strings.Repeat(`{"names": ["read"`+strings.Repeat(`, "write"`, 99)+
			`], "action": "SCMP_ACT_LOG", "args": [`+test+strings.Repeat(", "+test, 15)+`]},`, 90) + `{"names": ["write"], "action": "SCMP_ACT_LOG"}]}`,
		"instructions": `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [` + strings.Repeat(`{"names": ["write", "read", "close"], "action": "SCMP_ACT_LOG", "args": [`+test+`]},`, 400) + `{"names": ["write"], "action": "SCMP_ACT_LOG"}]}`,
	} {
		if _, err := seccomp.Compile([]byte(profile), nil); err == nil || !isLimit(err, what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	f, err := seccomp.Compile([]byte(rule(`"names": ["wirte", "chown32", "unlnik"], "action": "SCMP_ACT_ERRNO"`)), nil)
	if err != nil || !slices.Equal(f.Ignored, []string{"chown32", "unlnik", "wirte"}) {
		t.Errorf("mistyped: %q, %v", f.Ignored, err)
	}
}

func isLimit(err error, what string) bool {
	e, ok := errors.AsType[*seccomp.LimitError](err)
	return ok && strings.HasPrefix(e.What, what) && strings.Contains(e.Error(), what)
}

// TestDefaultProfile compiles the profile that Podman runs everything with, for both machines.
func TestDefaultProfile(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("/usr/share/containers/seccomp.json")
	oracle.Need(t, oracle.NeedTools, err)
	for _, arch := range []string{"amd64", "arm64"} {
		f, err := seccomp.Compile(data, &seccomp.Options{Arch: arch})
		if err != nil || len(f.Ignored) > 0 {
			t.Fatalf("%s: %v, ignored %q", arch, err, f.Ignored)
		}
		t.Logf("%s: %d instructions", arch, len(f.Program)/8)
		admin, err := seccomp.Compile(data, &seccomp.Options{Arch: arch, Capabilities: []string{"CAP_SYS_ADMIN"}})
		if err != nil {
			t.Fatal(err)
		}
		bpf, read := uint32(321), uint32(0)
		if arch == "arm64" {
			bpf, read = 280, 63
		}
		for _, test := range []struct {
			program []byte
			nr      uint32
			allowed bool
		}{{f.Program, read, true}, {f.Program, bpf, false}, {admin.Program, bpf, true}, {f.Program, 4000, false}} {
			got, err := run(test.program, call{nr: test.nr, arch: audit(arch)})
			if err != nil || (got == allow) != test.allowed {
				t.Errorf("%s, call %d: %#x, %v", arch, test.nr, got, err)
			}
		}
	}
}

// FuzzCompile has a program that runs to its end for every call, and decides as the profile says for those it names.
func FuzzCompile(f *testing.F) {
	for _, seed := range []string{
		`{"defaultAction": "SCMP_ACT_ALLOW"}`,
		`{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read", "mmap"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 1, "value": 4294967296, "op": "SCMP_CMP_GE"}]}]}`,
		`{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{"name": "clone", "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}, {"names": ["clone"], "action": "SCMP_ACT_LOG"}]}`,
		`{"defaultAction": "SCMP_ACT_TRAP", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 3, "op": "SCMP_CMP_LT"}]}]}`,
	} {
		f.Add([]byte(seed), uint32(0), uint64(1), uint64(1<<32))
	}
	f.Fuzz(func(t *testing.T, data []byte, nr uint32, a, b uint64) {
		filter, err := seccomp.Compile(data, &seccomp.Options{Arch: "amd64"})
		if err != nil {
			_, limit := errors.AsType[*seccomp.LimitError](err)
			if !limit && !errors.Is(err, seccomp.ErrFormat) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if len(filter.Program) > 8*4096 || len(filter.Program)%8 != 0 {
			t.Fatalf("%d bytes", len(filter.Program))
		}
		args := [6]uint64{a, b, a, b, a, b}
		for _, n := range []uint32{nr, 0, 9, 56, 1000} {
			got, err := run(filter.Program, call{nr: n, arch: audit("amd64"), args: args})
			if err != nil {
				t.Fatal(err)
			}
			if want, ok := decide(data, n, args); ok && got&0xffff0000 != want {
				t.Fatalf("call %d: %#x, want %#x", n, got, want)
			}
		}
	})
}

// decide is what a profile says of one of three calls, by reading it anew; ok is false for other calls, and profiles with what this does not know.
func decide(data []byte, nr uint32, args [6]uint64) (act uint32, ok bool) {
	var p struct {
		DefaultAction string
		Syscalls      []struct {
			Name   string
			Names  []string
			Action string
			Args   []struct {
				Index, Value, ValueTwo uint64
				Op                     string
			}
			Includes, Excludes any
		}
	}
	name, known := map[uint32]string{0: "read", 9: "mmap", 56: "clone"}[nr]
	if !known || json.Unmarshal(data, &p) != nil {
		return 0, false
	}
	kinds := map[string]uint32{
		"SCMP_ACT_ALLOW": allow, "SCMP_ACT_KILL": 0, "SCMP_ACT_KILL_THREAD": 0, "SCMP_ACT_KILL_PROCESS": 0x80000000, "SCMP_ACT_TRAP": 0x30000,
		"SCMP_ACT_ERRNO": 0x50000, "SCMP_ACT_TRACE": 0x7ff00000, "SCMP_ACT_LOG": 0x7ffc0000,
	}
	always, found := kinds[p.DefaultAction], false
	for _, s := range p.Syscalls {
		if s.Includes != nil || s.Excludes != nil {
			return 0, false
		}
		if s.Name != name && !slices.Contains(s.Names, name) {
			continue
		}
		if len(s.Args) == 0 {
			if k := kinds[s.Action]; !found || int32(k) < int32(always) {
				always, found = k, true
			}
			continue
		}
		all, some, seen, twice := true, false, [6]bool{}, false
		for _, a := range s.Args {
			h := holds(a.Op, args[a.Index], a.Value, a.ValueTwo)
			all, some = all && h, some || h
			twice = twice || seen[a.Index]
			seen[a.Index] = true
		}
		if all || twice && some {
			return kinds[s.Action], true
		}
	}
	return always, true
}
