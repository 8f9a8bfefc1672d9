package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	hpcrun "hpcimg/runtime"
)

// planned counts what Compile has to say: who has made no plan has nothing.
type planned struct {
	slog.Handler
	notes atomic.Int32
}

func (p *planned) Enabled(context.Context, slog.Level) bool { return true }

func (p *planned) Handle(context.Context, slog.Record) error {
	p.notes.Add(1)
	return nil
}

// led starts a command that leads a session, with a bind that gives every plan a note.
func led(t *testing.T, image hpcrun.Image, change ...func(*hpcrun.Spec)) (s *hpcrun.Session, spec hpcrun.Spec, leader *hpcrun.Cmd) {
	t.Helper()
	s = openSession(t, filepath.Join(t.TempDir(), "session"))
	spec = hpcrun.Spec{
		Image: image, Shared: true, Args: []string{"sleep", "1000"}, Env: []string{"PATH=/nowhere:/bin"}, Namespaces: hpcrun.Namespaces{User: true},
		Binds: []hpcrun.Bind{{Source: "/no/such/file", Target: "/mnt/x", Optional: true}},
	}
	for _, c := range change {
		c(&spec)
	}
	leader = &hpcrun.Cmd{Spec: &spec, Session: s}
	mustAll(t, leader.Start(t.Context()))
	t.Cleanup(func() {
		_ = leader.Process.Kill()
		_ = leader.Wait()
	})
	return s, spec, leader
}

const showNamespaces = "readlink /proc/self/ns/user /proc/self/ns/mnt; pwd"

// show runs a command in a session, and says where, and whether it took a plan.
func show(t *testing.T, s *hpcrun.Session, spec hpcrun.Spec) (namespaces, dir string, plan bool) {
	t.Helper()
	var p planned
	spec.Args, spec.Logger = sh(showNamespaces), slog.New(&p)
	out, err := (&hpcrun.Cmd{Spec: &spec, Session: s}).Output(t.Context())
	lines := strings.Split(string(out), "\n")
	if err != nil || len(lines) != 4 {
		t.Fatalf("%q, %v", out, err)
	}
	return lines[0] + " " + lines[1], lines[2], p.notes.Load() > 0
}

// TestJoinWithoutPlan: who has been given the same as the leader joins it without a plan, whatever is its own. Who has been given anything
// else gets what it has been given.
func TestJoinWithoutPlan(t *testing.T) {
	eachShared(t, func(t *testing.T, image hpcrun.Spec) {
		dir := t.TempDir()
		s, spec, leader := led(t, image.Image)
		want := namespacesOf(t, leader.Process.PID())
		mask := fs.FileMode(0o77)
		for name, change := range map[string]func(s *hpcrun.Spec){
			"the same":    func(*hpcrun.Spec) {},
			"environment": func(s *hpcrun.Spec) { s.Env = append(s.Env, "A=1") },
			"directory":   func(s *hpcrun.Spec) { s.Dir = "/opt" },
			"umask":       func(s *hpcrun.Spec) { s.Umask = &mask },
			"limits":      func(s *hpcrun.Spec) { s.Limits = []hpcrun.Limit{{Name: "core"}} },
			"notes":       func(s *hpcrun.Spec) { s.Injections = []hpcrun.Injection{{Notes: []string{"x"}, Env: []string{"A=1"}}} },
		} {
			guest := spec
			change(&guest)
			got, cwd, plan := show(t, s, guest)
			if name == "notes" { // one that the leader has not got
				plan = !plan
			}
			if got != want || plan {
				t.Errorf("%s: in %s, not %s, with a plan: %t", name, got, want, plan)
			}
			if guest.Dir != "" && cwd != guest.Dir {
				t.Errorf("%s: starts in %s", name, cwd)
			}
		}
		for name, change := range map[string]func(s *hpcrun.Spec){
			"a bind":     func(s *hpcrun.Spec) { s.Binds = append(s.Binds, hpcrun.Bind{Source: dir, Target: "/mnt/y"}) },
			"no /sys":    func(s *hpcrun.Spec) { s.Omit.Sys = true },
			"a user":     func(s *hpcrun.Spec) { s.User = &hpcrun.User{Name: "x", UID: 7} },
			"a home":     func(s *hpcrun.Spec) { s.Home.Source = dir },
			"containing": func(s *hpcrun.Spec) { s.Contain = hpcrun.ContainFiles },
		} {
			other := spec
			change(&other)
			if got, _, plan := show(t, s, other); got == want || !plan {
				t.Errorf("%s: in %s, with a plan: %t", name, got, plan)
			}
		}
	})
}

// TestJoinDirectory: without a plan, a command starts where it would with one.
func TestJoinDirectory(t *testing.T) {
	oracle.UserNS(t)
	dir := t.TempDir()
	for name, test := range map[string]struct {
		change func(*hpcrun.Spec)
		want   string
	}{
		"given":           {func(s *hpcrun.Spec) { s.HostDir = dir }, dir},
		"one that is not": {func(s *hpcrun.Spec) { s.HostDir, s.Omit.Home, s.Omit.HostDir = "/no/such", true, true }, "/"},
		"home":            {func(s *hpcrun.Spec) { s.Home = hpcrun.Home{Source: dir, Target: "/home/me"} }, "/home/me"},
		"no home":         {func(s *hpcrun.Spec) { s.Omit.Home = true }, "/"},
	} {
		t.Run(name, func(t *testing.T) {
			s, spec, _ := led(t, hpcrun.Image{Path: rootDir()}, test.change)
			if _, alone, _ := show(t, nil, withoutSession(spec)); alone != test.want {
				t.Errorf("alone it starts in %s, not %s", alone, test.want)
			}
			if _, got, plan := show(t, s, spec); got != test.want || plan {
				t.Errorf("starts in %s, not %s, with a plan: %t", got, test.want, plan)
			}
		})
	}
}

func withoutSession(spec hpcrun.Spec) hpcrun.Spec {
	spec.Shared = false
	return spec
}

// TestJoinErrors: what a guest has to be told, it is told as by a plan.
func TestJoinErrors(t *testing.T) {
	oracle.UserNS(t)
	s, spec, _ := led(t, hpcrun.Image{Path: rootDir()})
	refuse := errors.New("refused")
	asked := 0
	for name, test := range map[string]struct {
		change func(*hpcrun.Spec)
		check  func(error) bool
	}{
		"no program": {func(s *hpcrun.Spec) { s.Args = []string{"no-such-program"} }, func(err error) bool { return hpcrun.ExitCode(err) == hpcrun.ExitNotFound }},
		"no directory": {func(s *hpcrun.Spec) { s.Dir = "/no/such" }, func(err error) bool {
			e, ok := errors.AsType[*fs.PathError](err)
			return ok && e.Op == "chdir" && hpcrun.ExitCode(err) == hpcrun.ExitSetup
		}},
		"no command": {func(s *hpcrun.Spec) { s.Args = nil }, func(err error) bool { return errors.Is(err, fs.ErrInvalid) }},
		"not admitted": {func(s *hpcrun.Spec) {
			s.Image.Admit = func(context.Context, *os.File, int64, int64) error { asked++; return refuse }
		}, func(err error) bool { return errors.Is(err, refuse) && asked == 1 }},
	} {
		guest := spec
		guest.Args = []string{"true"}
		test.change(&guest)
		if _, err := hpcrun.Start(t.Context(), &guest, &hpcrun.StartOptions{Session: s}); err == nil || !test.check(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestJoinAdmits asks about the file that the leader has mounted: a file of the same name that is another has a session of its own.
func TestJoinAdmits(t *testing.T) {
	eachShared(t, func(t *testing.T, image hpcrun.Spec) {
		if info, err := os.Stat(image.Image.Path); err != nil || info.IsDir() {
			return
		}
		copyOf := func(name string) {
			data, err := os.ReadFile(image.Image.Path)
			mustAll(t, err, os.WriteFile(name, data, 0o644), os.Chtimes(name, time.Unix(1, 0), time.Unix(1, 0)))
		}
		name := filepath.Join(t.TempDir(), "image")
		copyOf(name)
		mounted, err := os.Stat(name)
		mustAll(t, err)
		image.Image.Path = name
		s, spec, leader := led(t, image.Image)
		want := namespacesOf(t, leader.Process.PID())
		var seen []os.FileInfo
		spec.Image.Admit = func(_ context.Context, f *os.File, _, _ int64) error {
			info, err := f.Stat()
			seen = append(seen, info)
			return err
		}
		if got, _, plan := show(t, s, spec); got != want || plan || len(seen) != 1 || !os.SameFile(seen[0], mounted) {
			t.Errorf("in %s, not %s, with a plan: %t, asked about %v", got, want, plan, seen)
		}
		copyOf(name + ".new")
		mustAll(t, os.Rename(name+".new", name))
		if got, _, plan := show(t, s, spec); got == want || !plan || len(seen) != 2 || os.SameFile(seen[1], mounted) {
			t.Errorf("another file of that name: in %s, with a plan: %t, asked about %v", got, plan, seen)
		}
	})
}

// TestJoinFalseAlias: whoever reaches the directory of a session can have the alias of one lead to another, or anywhere else. Nobody follows
// it to anything but what it asks for.
func TestJoinFalseAlias(t *testing.T) {
	oracle.UserNS(t)
	s, spec, leader := led(t, hpcrun.Image{Path: rootDir()})
	want := namespacesOf(t, leader.Process.PID())
	name := func(spec hpcrun.Spec) (key, alias string) {
		p, err := hpcrun.Compile(t.Context(), &spec)
		mustAll(t, err)
		defer p.Close()
		return s.KeyOf(p) + ".sock", filepath.Join(s.Dir(), s.AliasOf(p)+".alias")
	}
	other := spec
	other.Omit.Sys = true
	socket, alias := name(spec)
	_, otherAlias := name(other)
	if target, err := os.Readlink(alias); target != socket || err != nil {
		t.Fatalf("the alias leads to %s, %v", target, err)
	}
	for i, target := range []string{socket, "/dev/null", "../../../no/such", otherAlias, strings.Repeat("x", 4000)} {
		mustAll(t, os.Symlink(target, otherAlias))
		if got, _, plan := show(t, s, other); got == want || !plan {
			t.Errorf("alias %d: in %s, with a plan: %t", i, got, plan)
		}
		_ = os.Remove(otherAlias)
	}
	// A directory in its place helps nobody, and harms nobody.
	mustAll(t, os.Remove(alias), os.Mkdir(alias, 0o700))
	if got, _, plan := show(t, s, spec); got != want || !plan {
		t.Errorf("no alias: in %s, not %s, with a plan: %t", got, want, plan)
	}
	mustAll(t, os.Remove(alias))
}

// TestHeir replaces the file of an image while it is in use, and kills the leader: a guest that has joined without a plan still serves what it
// has joined.
func TestHeir(t *testing.T) {
	eachShared(t, func(t *testing.T, image hpcrun.Spec) {
		if image.Image.Backend != hpcrun.BackendFUSE {
			return
		}
		data, err := os.ReadFile(image.Image.Path)
		mustAll(t, err)
		for _, wait := range []time.Duration{0, 1500 * time.Millisecond} {
			if wait > 0 && testing.Short() {
				continue
			}
			dir := t.TempDir()
			spec := hpcrun.Spec{Image: image.Image, Shared: true, Namespaces: hpcrun.Namespaces{User: true}, Env: []string{"PATH=/bin"}, Args: sh("read -r line; cat /opt/text")}
			spec.Image.Path = filepath.Join(dir, "image")
			mustAll(t, os.WriteFile(spec.Image.Path, data, 0o644))
			leader, said := rank(t, spec, dir+"/session", "A=1")
			first, err := pidOf(said)
			mustAll(t, err)
			want := namespacesOf(t, first)
			var out strings.Builder
			guest := &hpcrun.Cmd{Spec: &spec, Session: openSession(t, dir+"/session"), Stdout: &out, Stderr: &out}
			stdin, err := guest.StdinPipe()
			mustAll(t, err, guest.Start(t.Context()))
			if got := namespacesOf(t, guest.Process.PID()); got != want {
				t.Fatalf("the guest is in %s, not %s", got, want)
			}
			time.Sleep(wait)
			mustAll(t, os.WriteFile(dir+"/new", []byte("no image"), 0o644), os.Rename(dir+"/new", spec.Image.Path), leader.Process.Kill())
			_ = leader.Wait()
			eventually(t, "it leads", func() bool { // requests before that fail
				names, _ := filepath.Glob(dir + "/session/*.alias")
				return len(names) == 1 && leads(names[0])
			})
			_, err = stdin.Write([]byte("\n"))
			mustAll(t, err, guest.Wait())
			if out.String() != "no program\n" {
				t.Errorf("after %v: %q", wait, out.String())
			}
		}
	})
}

// leads says whether somebody listens at a socket.
func leads(name string) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return false
	}
	defer dir.Close()
	return unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(name))}) == nil
}
