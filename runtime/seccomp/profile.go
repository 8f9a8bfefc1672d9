package seccomp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// ErrFormat is a profile that is none; see FormatError.
var ErrFormat = errors.New("not a seccomp profile")

// FormatError says what is wrong in a profile.
type FormatError struct {
	// Where is the place: "syscalls[3].args[0].op"; empty if it is all of it.
	Where string
	Err   error
}

func (e *FormatError) Error() string {
	if e.Where == "" {
		return fmt.Sprintf("seccomp: profile: %v", e.Err)
	}
	return fmt.Sprintf("seccomp: profile: %s: %v", e.Where, e.Err)
}

func (e *FormatError) Unwrap() error { return e.Err }

// Is makes it ErrFormat.
func (e *FormatError) Is(target error) bool { return target == ErrFormat }

// LimitError is a profile that is larger than this package, or the kernel, takes.
type LimitError struct {
	What  string
	Limit int
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("seccomp: profile: more than %d %s", e.Limit, e.What)
}

// Options say what a filter is for.
type Options struct {
	// Arch is the machine, amd64 or arm64; empty means the one that this runs on.
	Arch string
	// Capabilities are those that the command will have, CAP_SYS_ADMIN and so on. An ordinary user has none.
	Capabilities []string
	// Kernel is the version for rules that want a certain one, such as 6.1.0; empty means that all apply.
	Kernel string
}

// The profile, as far as it counts here.
type profile struct {
	DefaultAction   string  `json:"defaultAction"`
	DefaultErrno    string  `json:"defaultErrno"`
	DefaultErrnoRet *uint32 `json:"defaultErrnoRet"`
	Syscalls        []group `json:"syscalls"`
}

type group struct {
	Name     string   `json:"name"`
	Names    []string `json:"names"`
	Action   string   `json:"action"`
	Errno    string   `json:"errno"`
	ErrnoRet *uint32  `json:"errnoRet"`
	Args     []test   `json:"args"`
	Includes context  `json:"includes"`
	Excludes context  `json:"excludes"`
}

type test struct {
	Index    uint32 `json:"index"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo"`
	Op       string `json:"op"`
}

type context struct {
	Caps      []string `json:"caps"`
	Arches    []string `json:"arches"`
	MinKernel string   `json:"minKernel"`
}

const (
	maxProfile = 1 << 20
	maxTests   = 16
	maxErrno   = 4095
	arguments  = 6
)

func parse(data []byte) (*profile, error) {
	if len(data) > maxProfile {
		return nil, &LimitError{What: "bytes", Limit: maxProfile}
	}
	p := &profile{}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(p); err != nil {
		return nil, &FormatError{Err: err}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, &FormatError{Err: errors.New("something follows it")}
	}
	if p.DefaultAction == "" {
		return nil, &FormatError{Where: "defaultAction", Err: errors.New("missing")}
	}
	return p, nil
}

// action is what a filter returns: an action of the kernel's, and its number.
type action uint32

const (
	killProcess action = 0x80000000
	killThread  action = 0
	trap        action = 0x00030000
	failWith    action = 0x00050000
	trace       action = 0x7ff00000
	logCall     action = 0x7ffc0000
	allow       action = 0x7fff0000
	actionMask  action = 0xffff0000
)

// stricter says whether a forbids more than b, as the kernel orders them.
func (a action) stricter(b action) bool { return int32(a&actionMask) < int32(b&actionMask) }

// enosys is for what the kernel has not, either.
const enosys = failWith | 38

func actionOf(where, name, errno string, errnoRet *uint32) (action, error) {
	var a action
	switch name {
	case "SCMP_ACT_ALLOW":
		return allow, nil
	case "SCMP_ACT_LOG":
		return logCall, nil
	case "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD":
		return killThread, nil
	case "SCMP_ACT_KILL_PROCESS":
		return killProcess, nil
	case "SCMP_ACT_TRAP":
		a = trap
	case "SCMP_ACT_TRACE":
		a = trace
	case "SCMP_ACT_ERRNO":
		a = failWith
	case "SCMP_ACT_NOTIFY":
		return 0, &FormatError{Where: where, Err: fmt.Errorf("SCMP_ACT_NOTIFY: %w", errors.ErrUnsupported)}
	default:
		return 0, &FormatError{Where: where, Err: fmt.Errorf("unknown action %q", name)}
	}
	number := uint32(0)
	if a == failWith {
		number = 1 // EPERM
	}
	switch {
	case errno != "":
		n, ok := errnos[errno]
		if !ok {
			v, err := strconv.ParseUint(errno, 10, 12)
			if err != nil {
				return 0, &FormatError{Where: where, Err: fmt.Errorf("unknown error %q: give its number as errnoRet", errno)}
			}
			n = uint32(v)
		}
		number = n
	case errnoRet != nil:
		number = *errnoRet
	}
	if number > maxErrno {
		return 0, &FormatError{Where: where, Err: fmt.Errorf("error number %d: more than %d", number, maxErrno)}
	}
	return a | action(number), nil
}

// errnos are the errors that profiles have by name.
var errnos = map[string]uint32{
	"EPERM": 1, "ENOENT": 2, "EINTR": 4, "EIO": 5, "ENXIO": 6, "EBADF": 9, "EAGAIN": 11, "ENOMEM": 12, "EACCES": 13, "EFAULT": 14, "EBUSY": 16,
	"EEXIST": 17, "EXDEV": 18, "ENODEV": 19, "ENOTDIR": 20, "EISDIR": 21, "EINVAL": 22, "ENOTTY": 25, "EROFS": 30, "ENOSYS": 38,
	"EPROTONOSUPPORT": 93, "EOPNOTSUPP": 95, "ENOTSUP": 95, "EAFNOSUPPORT": 97,
}

// applies says whether a group counts with the options.
func (g *group) applies(o *Options) (bool, error) {
	has := func(name string) bool { return slices.Contains(o.Capabilities, name) }
	missing := func(name string) bool { return !has(name) }
	enough, err := kernelAtLeast(o.Kernel, g.Includes.MinKernel)
	if err != nil {
		return false, err
	}
	tooNew := false
	if g.Excludes.MinKernel != "" {
		if tooNew, err = kernelAtLeast(o.Kernel, g.Excludes.MinKernel); err != nil {
			return false, err
		}
		tooNew = tooNew && o.Kernel != ""
	}
	switch {
	case slices.ContainsFunc(g.Includes.Caps, missing), slices.ContainsFunc(g.Excludes.Caps, has),
		len(g.Includes.Arches) > 0 && !slices.Contains(g.Includes.Arches, o.Arch), slices.Contains(g.Excludes.Arches, o.Arch), !enough, tooNew:
		return false, nil
	}
	return true, nil
}

// kernelAtLeast compares versions by their first two numbers. An unknown kernel is new enough.
func kernelAtLeast(have, want string) (bool, error) {
	if want == "" {
		return true, nil
	}
	w, ok := version(want)
	if !ok {
		return false, fmt.Errorf("minKernel %q: not a version", want)
	}
	if have == "" {
		return true, nil
	}
	h, ok := version(have)
	if !ok {
		return false, fmt.Errorf("kernel %q: not a version", have)
	}
	return slices.Compare(h[:], w[:]) >= 0, nil
}

func version(s string) (v [2]int, ok bool) {
	for i := range v {
		digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
		n, err := strconv.Atoi(s[:digits])
		if err != nil {
			return v, false
		}
		v[i], s = n, s[digits:]
		if i == 0 && !strings.HasPrefix(s, ".") {
			return v, false
		}
		s = strings.TrimPrefix(s, ".")
	}
	return v, true
}

func (o *Options) withDefaults() Options {
	if o == nil {
		o = &Options{}
	}
	v := *o
	if v.Arch == "" {
		v.Arch = runtime.GOARCH
	}
	return v
}
