package runtime_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	hpcrun "hpcimg/runtime"
	"hpcimg/squashfs"
)

var raceRounds = flag.Int("race-rounds", 60, "how often an image is started while it changes")

const secret = "what only the host has to know"

// canary is a directory of the host that nothing hostile may change or show.
type canary struct {
	dir    string
	before map[string]string
}

// newCanary makes one below parent that has what links of images lead to.
func newCanary(t testing.TB, parent string) *canary {
	t.Helper()
	dir := filepath.Join(parent, "outside")
	for _, d := range []string{"libs", "shm", "etc", "env", "actions"} {
		mustAll(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for _, f := range []string{"passwd", "group", "resolv.conf", "hosts", "etc/passwd", "null", "actions/exec"} {
		mustAll(t, os.WriteFile(filepath.Join(dir, f), []byte(secret+"\n"), 0o644))
	}
	mustAll(t, filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(name, time.Unix(1, 0), time.Unix(1, 0)))
	}))
	c := &canary{dir: dir}
	c.before = c.look(t)
	return c
}

// look returns all that there is: contents, modes, owners, and the times of changes to either.
func (c *canary) look(t testing.TB) map[string]string {
	t.Helper()
	seen := make(map[string]string)
	mustAll(t, filepath.WalkDir(c.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		text := fmt.Sprint(st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Mtim, st.Ctim)
		if d.Type().IsRegular() {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			text += string(data)
		}
		seen[name] = text
		return nil
	}))
	return seen
}

// check says whether all is as it was.
func (c *canary) check(t testing.TB, what string) {
	t.Helper()
	now := c.look(t)
	for name, text := range now {
		if c.before[name] == "" {
			t.Errorf("%s: %s has been made on the host", what, name)
		} else if c.before[name] != text {
			t.Errorf("%s: %s was changed on the host: %s, was %s", what, name, text, c.before[name])
		}
	}
	if len(now) < len(c.before) {
		t.Errorf("%s: %d files on the host, %d before", what, len(now), len(c.before))
	}
	c.before = now
}

// smallImage makes a directory with little in it, that somebody hostile then changes.
func smallImage(t testing.TB) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "image")
	for _, d := range []string{
		"etc", "proc", "sys", "dev/shm", "dev/pts", "tmp", "var/tmp", "root", "job", "home/me", "opt/bind", "bin", ".singularity.d/libs",
		".singularity.d/env", ".singularity.d/actions",
	} {
		mustAll(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	for name, data := range map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/group": "root:x:0:\n", "etc/resolv.conf": "", "etc/hosts": "", "etc/localtime": "", "opt/file": "",
		".singularity.d/labels.json": "{}", ".singularity.d/env/10.sh": "",
	} {
		mustAll(t, os.WriteFile(filepath.Join(root, name), []byte(data), 0o644))
	}
	mustAll(t, copySome(root, "sh", "cat", "readlink", "true"))
	return root
}

// hostileSpec has a mount at each place that an image can do something about.
func hostileSpec(root, host string, contain hpcrun.Contain) hpcrun.Spec {
	return hpcrun.Spec{
		Image: hpcrun.Image{Path: root}, Env: []string{"PATH=/bin"}, Contain: contain, Dir: "/job", Home: hpcrun.Home{Source: host, Target: "/home/me"},
		Args:       sh(`readlink /proc/self/cwd; for f in /etc/passwd /etc/group /etc/resolv.conf /job/passwd /dev/passwd; do test -f $f && cat $f; done; echo ran`),
		Binds:      []hpcrun.Bind{{Source: host, Target: "/opt/bind"}, {Source: host + "/file", Target: "/opt/file", ReadOnly: true}, {Source: host, Target: "/opt/new/place"}},
		Injections: []hpcrun.Injection{{Name: "gpu", Libraries: []hpcrun.Library{{Source: host + "/file", Names: []string{"libx.so.1", "libx.so"}}}}},
	}
}

// hostDir is a directory of the host that is bound with write access, where mounts must make nothing either.
func hostDir(t testing.TB) *canary {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "host")
	mustAll(t, os.MkdirAll(dir+"/libs", 0o755), os.MkdirAll(dir+"/shm", 0o755), os.WriteFile(dir+"/file", []byte("a library\n"), 0o644))
	c := &canary{dir: dir}
	c.before = c.look(t)
	return c
}

// judge says whether a start has ended as one may: with the command run, or an error that says which file. What is below
// /tmp is outside of the image only where that is not bound; and root without a user namespace has all of the host by /proc.
func judge(spec *hpcrun.Spec, out string, err error) error {
	shown := spec.Contain == hpcrun.ContainNone && !spec.Omit.Tmp || os.Geteuid() == 0 && !spec.Namespaces.User
	if !shown && strings.Contains(out, secret) {
		return fmt.Errorf("the host's files are shown: %q", out)
	}
	if err == nil || strings.HasSuffix(out, "ran\n") {
		if cwd, _, _ := strings.Cut(out, "\n"); err != nil || !strings.HasPrefix(cwd, "/") {
			return fmt.Errorf("%q, %w", out, err)
		}
		return nil
	}
	if e, ok := errors.AsType[*hpcrun.BindError](err); ok && e.Target != "" {
		return nil
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok && e.Path != "" && e.Op != "" {
		return nil
	}
	return fmt.Errorf("an error without a path: %w", err)
}

// bounded runs a command that may not take long, whatever the image is like.
func bounded(t testing.TB, spec hpcrun.Spec, executor hpcrun.Executor) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := (&hpcrun.Cmd{Spec: &spec, Executor: executor}).CombinedOutput(ctx)
	if ctx.Err() != nil {
		t.Errorf("not done in 30 seconds: %v", err)
	}
	return string(out), err
}

// TestHostilePlaces has at each place of an image everything that does not belong there.
func TestHostilePlaces(t *testing.T) {
	t.Parallel()
	namespaces(t)
	outside, host, root := newCanary(t, t.TempDir()), hostDir(t), smallImage(t)
	device := fuseDevice(t)
	places := []string{
		"dev", "proc", "sys", "etc", "tmp", "var", "var/tmp", "etc/passwd", "etc/group", "etc/resolv.conf", "etc/localtime", "home", "home/me", "job", "opt/bind", "opt/file",
		"opt/new", ".singularity.d", ".singularity.d/libs", "dev/shm",
	}
	n := 0
	for _, place := range places {
		kinds := planted(outside.dir)
		for _, what := range slices.Sorted(maps.Keys(kinds)) {
			plant := kinds[what]
			n++
			if selection() && n%11 != 0 {
				continue
			}
			name := filepath.Join(root, place)
			mustAll(t, hide(name), plant(name))
			contain := []hpcrun.Contain{hpcrun.ContainNone, hpcrun.ContainFiles, hpcrun.ContainAll}[n%3]
			spec := hostileSpec(root, host.dir, contain)
			spec.Namespaces.User, spec.Omit.Tmp = n%4 > 0, n%5 < 2
			what = fmt.Sprintf("%s is %s (%s)", place, what, contain)
			out, err := bounded(t, spec, []hpcrun.Executor{hpcrun.ExecutorAuto, hpcrun.ExecutorFork}[n%2])
			if err := judge(&spec, out, err); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if device != "" && n%12 == 0 {
				what += " by FUSE"
				spec.Image = hpcrun.Image{Path: root + ".sqfs", Backend: hpcrun.BackendFUSE, FUSEDevice: device}
				pack(t, root, spec.Image.Path)
				out, err := bounded(t, spec, hpcrun.ExecutorAuto)
				if err := judge(&spec, out, err); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
			outside.check(t, what)
			host.check(t, what)
			mustAll(t, restore(name))
			if t.Failed() {
				return
			}
		}
	}
}

func pack(t testing.TB, root, image string) {
	t.Helper()
	_ = os.Remove(image)
	mustAll(t, squashfs.Create(t.Context(), image, &squashfs.WriterOptions{Compression: squashfs.CompressionNone}, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromDir(ctx, root, nil)
	}))
}

const aside = ".as-it-was"

// hide puts a file aside, and restore undoes that.
func hide(name string) error {
	err := os.Rename(name, name+aside)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

func restore(name string) error {
	err := os.RemoveAll(name)
	if renameErr := os.Rename(name+aside, name); !errors.Is(renameErr, fs.ErrNotExist) {
		err = errors.Join(err, renameErr)
	}
	return err
}

// planted are all kinds of files, by name.
func planted(outside string) map[string]func(name string) error {
	all := map[string]func(name string) error{
		"a directory": func(name string) error { return os.Mkdir(name, 0o755) },
		"a file":      func(name string) error { return os.WriteFile(name, []byte("junk"), 0o755) },
		"a huge file": func(name string) error { return errors.Join(os.WriteFile(name, nil, 0o644), os.Truncate(name, 8<<20)) },
		"a pipe":      func(name string) error { return syscall.Mkfifo(name, 0o644) },
		"a socket": func(name string) error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			dir, err := os.Open(filepath.Dir(name))
			if err != nil {
				return err
			}
			defer dir.Close()
			return unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(name))})
		},
		"a loop": func(name string) error { return os.Symlink(filepath.Base(name), name) },
		"absent": func(string) error { return nil },
		"a chain": func(name string) error {
			for i := range 60 {
				if err := os.Symlink(fmt.Sprintf("%s.%d", filepath.Base(name), i+1), fmt.Sprintf("%s.%d", name, i)); err != nil && !errors.Is(err, fs.ErrExist) {
					return err
				}
			}
			return os.Symlink(filepath.Base(name)+".0", name)
		},
	}
	if os.Geteuid() == 0 {
		all["a device"] = func(name string) error { return unix.Mknod(name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) }
		all["a whiteout"] = func(name string) error { return unix.Mknod(name, unix.S_IFCHR|0o666, 0) }
	}
	for what, target := range map[string]string{
		"an absolute link": outside, "a link up": "../../../../../../../../.." + outside, "a link to its place": ".", "a link to the parent": "..", "a dangling link": "/no/such/file",
		"a link to its root": "/proc/self/root", "a link to its directory": "/proc/self/cwd", "a link to a descriptor": "/proc/self/fd/3", "a link to another's root": fmt.Sprintf("/proc/%d/root%s", os.Getpid(), outside),
		"a link to its program": "/proc/self/exe", "a link to the first process": "/proc/1/root", "a link to /": "/", "a link to /sys": "/sys/fs/cgroup", "a link to a bind": "/opt/bind", "a link to the home": "/home/me/libs",
		"a link to /tmp": "/tmp", "a link to a device": "/dev/zero", "a long link": strings.Repeat("x/../", 800) + "etc", "a link through a file": "/etc/passwd/x",
	} {
		all[what] = func(name string) error { return os.Symlink(target, name) }
	}
	return all
}

// TestRacer starts an image again and again, while at all places that something is mounted at or taken from, directories and
// links that lead elsewhere are swapped.
func TestRacer(t *testing.T) {
	t.Parallel()
	namespaces(t)
	outside, host, root := newCanary(t, t.TempDir()), hostDir(t), smallImage(t)
	targets := []string{
		outside.dir, "../../../../../../../.." + outside.dir, "/opt/bind", "/home/me", "/sys/fs/cgroup", "/tmp", "/proc/self/root" + outside.dir, fmt.Sprintf("/proc/%d/root%s", os.Getpid(), outside.dir), "..",
	}
	var swaps atomic.Int64
	done := make(chan struct{})
	var racers sync.WaitGroup
	for i, place := range []string{".singularity.d/libs", "dev", "etc", ".singularity.d", "tmp", "job", "home/me", "home", "opt/bind", "opt/file", "etc/passwd", "var/tmp", "proc", "opt"} {
		name := filepath.Join(root, place)
		for k := range 3 {
			mustAll(t, os.Symlink(targets[(i+k*4)%len(targets)], fmt.Sprintf("%s.%d", name, k)))
		}
	}
	places := []string{".singularity.d/libs", ".singularity.d", "dev", "etc", "tmp", "job", "home/me", "opt/bind", "opt/file", "etc/passwd", "var/tmp"}
	racers.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			name := filepath.Join(root, places[n%len(places)])
			link := fmt.Sprintf("%s.%d", name, n/len(places)%3)
			// There and back: most of the time all is in order, so that a start gets far.
			for range 2 {
				if unix.Renameat2(unix.AT_FDCWD, name, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE) == nil {
					swaps.Add(1)
				}
			}
			if n%8 == 0 {
				time.Sleep(50 * time.Microsecond)
			}
		}
	})
	rounds := *raceRounds
	if testing.Short() {
		rounds = min(rounds, 30)
	}
	ran := 0
	for i := range rounds {
		contain := []hpcrun.Contain{hpcrun.ContainNone, hpcrun.ContainFiles, hpcrun.ContainAll}[i%3]
		spec := hostileSpec(root, host.dir, contain)
		spec.Namespaces.User, spec.Omit.Tmp = i%4 > 0, i%5 == 0
		if i%7 > 2 { // an overlay, which a bind at a new place makes necessary, would remember names
			spec.Binds = spec.Binds[:2]
		}
		out, err := bounded(t, spec, []hpcrun.Executor{hpcrun.ExecutorAuto, hpcrun.ExecutorFork}[i%2])
		if err == nil {
			ran++
		}
		if err := judge(&spec, out, err); err != nil {
			t.Errorf("start %d (%s): %v", i, contain, err)
		}
		outside.check(t, fmt.Sprint("start ", i))
		host.check(t, fmt.Sprint("start ", i))
		if t.Failed() {
			break
		}
	}
	close(done)
	racers.Wait()
	if names, _ := filepath.Glob("/sys/fs/cgroup/*/libx*"); len(names) > 0 {
		t.Errorf("made in /sys: %v", names)
	}
	t.Logf("%d of %d starts ran the command, while %d files were swapped", ran, rounds, swaps.Load())
}

// TestRacerTmpfs is about directories in memory: what is put there must not go to what has taken the place of their name. The
// window is short, so all that the racer does is aimed at it.
func TestRacerTmpfs(t *testing.T) {
	t.Parallel()
	oracle.UserNS(t)
	host, root := hostDir(t), smallImage(t)
	mustAll(t, os.Symlink("/opt/bind", root+"/other"))
	done := make(chan struct{})
	var racers sync.WaitGroup
	racers.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, root+"/.singularity.d/libs", unix.AT_FDCWD, root+"/other", unix.RENAME_EXCHANGE)
			}
		}
	})
	spec := hostileSpec(root, host.dir, hpcrun.ContainNone)
	spec.Namespaces.User = true
	spec.Omit = hpcrun.Omit{Tmp: true, Sys: true, Etc: true}
	spec.Binds = spec.Binds[:1] // nothing is missing in the image: then there would be an overlay, which remembers names
	rounds := *raceRounds
	if testing.Short() {
		rounds = min(rounds, 20)
	}
	for i := range rounds {
		if plan, err := hpcrun.Compile(t.Context(), &spec); err == nil {
			out, err := (&hpcrun.Cmd{Plan: plan}).CombinedOutput(t.Context())
			if err := judge(&spec, string(out), err); err != nil {
				t.Errorf("start %d: %v", i, err)
			}
		}
		host.check(t, fmt.Sprint("start ", i))
	}
	close(done)
	racers.Wait()
}
