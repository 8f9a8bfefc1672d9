package runtime_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	hpcrun "hpcimg/runtime"
)

// TestLimits runs a command with limits and a file mode creation mask of its own; what is not named stays as it is.
func TestLimits(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		spec.Args = sh("ulimit -t; ulimit -H -t; ulimit -n; ulimit -H -n; ulimit -c; umask; umask 0; : >/tmp/x")
		spec.Contain = hpcrun.ContainFiles
		spec.Umask = new(fs.FileMode(0o137))
		spec.Limits = []hpcrun.Limit{{Name: "cpu", Soft: 1000, Hard: 2000}, {Name: "nofile", Soft: 60, Hard: 70}, {Name: "core"}}
		if got, want := mustOutput(t, spec), "1000\n2000\n60\n70\n0\n0137\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		// A PID namespace has a process between this one and the command.
		spec.Namespaces.PID = true
		if got := mustOutput(t, spec); !strings.HasPrefix(got, "1000\n2000\n60\n70\n") {
			t.Errorf("with a PID namespace: %q", got)
		}
		// The limit has its effect.
		spec.Limits, spec.Args = []hpcrun.Limit{{Name: "fsize", Soft: 10, Hard: 10}}, sh("trap '' XFSZ; echo more than ten bytes >/tmp/x || exit 9")
		if _, err := output(t, spec); hpcrun.ExitCode(err) != 9 {
			t.Errorf("a file larger than its limit: %v", err)
		}
	})
}

// TestLimitRaised asks for more than this process has: root can have that, a process in a user namespace cannot.
func TestLimitRaised(t *testing.T) {
	t.Parallel()
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		t.Fatal(err)
	}
	more := hpcrun.Limit{Name: "nofile", Soft: 64, Hard: have.Max + 64}
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Args: sh("ulimit -H -n"), Env: []string{"PATH=/bin"}, Limits: []hpcrun.Limit{more}}
	spec.Namespaces.User = true
	_, err := hpcrun.Compile(t.Context(), &spec)
	if e, ok := errors.AsType[*hpcrun.LimitError](err); !ok || e.Have != have.Max || e.Limit != more || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "nofile") {
		t.Errorf("in a user namespace: %v", err)
	}
	oracle.Root(t)
	spec.Namespaces.User = false
	spec.Limits[0].Hard = have.Max // what the whole system may have bounds nofile
	if out := mustOutput(t, spec); strings.TrimSpace(out) == "" {
		t.Errorf("as root: %q", out)
	}
}

func TestParseLimit(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]hpcrun.Limit{
		"nofile=1024":                 {Name: "nofile", Soft: 1024, Hard: 1024},
		"memlock=1:-1":                {Name: "memlock", Soft: 1, Hard: hpcrun.Unlimited},
		"stack=0:unlimited":           {Name: "stack", Hard: hpcrun.Unlimited},
		"rttime=18446744073709551615": {Name: "rttime", Soft: hpcrun.Unlimited, Hard: hpcrun.Unlimited},
	} {
		if got, err := hpcrun.ParseLimit(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "nofile", "nofile=", "nofile=x", "nofile=1:", "nofile=2:1", "nofile=-2", "NOFILE=1", "no=1", "=1", " =1", "as core=1", "nofile=1:2:3"} {
		if got, err := hpcrun.ParseLimit(text); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for name, spec := range map[string]hpcrun.Spec{
		"resource": {Limits: []hpcrun.Limit{{Name: "fd"}}},
		"order":    {Limits: []hpcrun.Limit{{Name: "cpu", Soft: 2, Hard: 1}}},
		"umask":    {Umask: new(fs.ModeDir | 0o22)},
	} {
		spec.Image, spec.Args = hpcrun.Image{Path: rootDir()}, []string{"true"}
		if _, err := hpcrun.Compile(t.Context(), &spec); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
