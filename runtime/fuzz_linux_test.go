package runtime_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	hpcrun "hpcimg/runtime"
)

// plantTree makes what lines say, "d PATH", "f PATH" and "l PATH TARGET", as far as it can be made inside of dir.
func plantTree(dir, lines string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	const most = 40
	for i, line := range strings.Split(lines, "\n") {
		f := strings.SplitN(line, " ", 3)
		if i == most || len(f) < 2 || len(f[1]) > 100 {
			break
		}
		switch {
		case f[0] == "d":
			_ = root.MkdirAll(f[1], 0o755)
		case f[0] == "f":
			_ = root.WriteFile(f[1], nil, 0o644)
		case f[0] == "l" && len(f) == 3:
			_ = root.Symlink(f[2], f[1])
		}
	}
	return nil
}

// FuzzResolve has the kernel resolve the paths that plans are made of, in images full of symbolic links, and comes to the same results.
func FuzzResolve(f *testing.F) {
	f.Add("d a/b\nl a/up ../..\nl abs /a/b\nl loop loop\nf a/file", "/a/up/abs/x")
	f.Add("d a\nf a/file\nl dot .\nl l1 dot/dot/a/file", "/l1")
	f.Add("d a\nf a/file", "/a/file/..")
	f.Add("d a\nl a/s ../../../../etc/passwd\nd etc", "/a/s")
	f.Add("l p /proc/self/root/etc", "p/../../etc")
	f.Fuzz(func(t *testing.T, lines, name string) {
		if len(name) > 200 || strings.ContainsRune(name, 0) {
			return
		}
		dir := t.TempDir()
		mustAll(t, plantTree(dir, lines))
		found, missing, err := hpcrun.ResolveIn(dir, name)
		if e, ok := errors.AsType[*fs.PathError](err); err != nil && (!ok || e.Path == "") {
			t.Fatalf("an error without a path: %v", err)
		}
		if err == nil && (found != path.Clean("/"+found)) {
			t.Fatalf("%q is no path of an image", found)
		}
		d, openErr := os.Open(dir)
		mustAll(t, openErr)
		defer d.Close()
		// From the root of an image, as the kernel resolves what a plan says.
		fd, kernelErr := unix.Openat2(int(d.Fd()), "/"+name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
		if kernelErr == nil {
			defer unix.Close(fd)
			where, err2 := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			mustAll(t, err2)
			if err != nil || len(missing) > 0 || filepath.Join(dir, found) != where {
				t.Fatalf("%q: the kernel finds %s; got %q, missing %q, %v", name, strings.TrimPrefix(where, dir), found, missing, err)
			}
			return
		}
		if err == nil && len(missing) == 0 {
			t.Fatalf("%q: found %q, the kernel says %v", name, found, kernelErr)
		}
		if errors.Is(kernelErr, unix.ELOOP) != errors.Is(err, unix.ELOOP) {
			t.Fatalf("%q: %v, the kernel says %v", name, err, kernelErr)
		}
	})
}

// FuzzWithLine adds the line of a user to whatever an image has for a passwd file.
func FuzzWithLine(f *testing.F) {
	const ada = "ada:x:1000:1000::/home/ada:/bin/sh"
	f.Add("root:x:0:0:root:/root:/bin/sh\n")
	f.Add("eve:x:1000:1:::\nmallory:x:1000:1:::")
	f.Add("\n:::::\n\x00:x:1000\n")
	f.Fuzz(func(t *testing.T, file string) {
		got := hpcrun.WithLine(file, ada)
		if n := strings.Count("\n"+got, "\n"+ada+"\n"); n != 1 && !strings.Contains("\n"+file, "\n"+ada) {
			t.Fatalf("the line is there %d times in %q", n, got)
		}
		if len(got) > len(file)+len(ada)+2 && !strings.Contains(file, ":") || !strings.HasSuffix(got, "\n") {
			t.Fatalf("%q", got)
		}
		lines := strings.Split(got, "\n")
		for line := range strings.Lines(file) {
			line = strings.TrimRight(line, "\n")
			number := strings.SplitN(line, ":", 4)
			if other := len(number) < 4 || number[2] != "1000"; other && !slices.Contains(lines, line) {
				t.Fatalf("%q is gone", line)
			} else if !other && line != ada && slices.Contains(lines, line) {
				t.Fatalf("%q has the number too", line)
			}
		}
	})
}

// FuzzEnvironment mixes variables of images and hosts: whatever they are, a command can be started with what comes of them.
func FuzzEnvironment(f *testing.F) {
	f.Add("PATH=/bin\nA=1", "HOME=/x\nB=2\nBASH_FUNC_x%%=() { :; }", "PREPEND_PATH=/y\nA=3", true, false)
	f.Add("=x\n\nLD_LIBRARY_PATH=::\nA\x00B=1", "A", "PATH=", false, true)
	f.Fuzz(func(t *testing.T, image, host, set string, clean, scripts bool) {
		split := func(s string) []string { return strings.Split(s, "\n") }
		env := hpcrun.Environment(hpcrun.EnvInput{Image: split(image), Host: split(host), Set: split(set), Clean: clean, Scripts: scripts, Home: "/home"})
		if !slices.IsSorted(namesOf(env)) || len(slices.Compact(namesOf(env))) != len(env) {
			t.Fatalf("not sorted, or a name twice: %q", env)
		}
		for _, kv := range env {
			if name, _, ok := strings.Cut(kv, "="); !ok || name == "" || strings.ContainsRune(kv, 0) {
				t.Fatalf("%q is no variable", kv)
			}
		}
		again := hpcrun.Environment(hpcrun.EnvInput{Image: env, Home: "/home"})
		if !scripts && !slices.Equal(again, env) {
			t.Fatalf("%q became %q", env, again)
		}
	})
}

func namesOf(env []string) []string {
	names := make([]string, len(env))
	for i, kv := range env {
		names[i], _, _ = strings.Cut(kv, "=")
	}
	return names
}

// FuzzWelcome has whoever listens in the place of a session's leader send anything, with any descriptors: what is taken is complete,
// and nothing else stays open.
func FuzzWelcome(f *testing.F) {
	wanted := strings.Repeat("ab", 16)
	f.Add([]byte("\x03"+wanted), 2, true, true)
	f.Add([]byte("\x07"+strings.Repeat("0", 32)+wanted), 3, true, true)
	f.Add([]byte("\x02"+wanted), 1, false, true)
	f.Add([]byte("\x02"+wanted[1:]), 1, false, true)
	f.Add([]byte{2}, 1, false, true)
	f.Add([]byte{255, 1, 2}, 5, false, false)
	f.Add([]byte{}, 0, false, false)
	null, err := os.Open(os.DevNull)
	mustAll(f, err)
	f.Cleanup(func() { null.Close() })
	f.Fuzz(func(t *testing.T, data []byte, count int, private, packets bool) {
		if count < 0 || count > 20 || len(data) > 1<<16 {
			return
		}
		kind := unix.SOCK_STREAM
		if packets {
			kind = unix.SOCK_SEQPACKET
		}
		pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		mustAll(t, err)
		var rights []byte
		if count > 0 {
			fds := make([]int, count)
			for i := range fds {
				fds[i] = int(null.Fd())
			}
			rights = unix.UnixRights(fds...)
		}
		sendErr := unix.Sendmsg(pair[1], data, rights, nil, unix.MSG_NOSIGNAL)
		mustAll(t, unix.Close(pair[1]))
		before := descriptors(t)
		conn := os.NewFile(uintptr(pair[0]), "conn")
		taken, err := hpcrun.ReceiveWelcome(t.Context(), conn, wanted, private)
		if err == nil {
			want := 0
			for _, bit := range []byte{1, 2, 4} {
				if data[0]&bit != 0 {
					want++
				}
			}
			names := string(data[1:min(len(data), 65)]) // more than two are no concern of a guest's
			named := len(names) == 32 && names == wanted || len(names) == 64 && (names[:32] == wanted || names[32:] == wanted)
			if sendErr != nil || !named || data[0]&2 == 0 || private != (data[0]&1 != 0) || taken != min(want, count) {
				t.Fatalf("%v, %d descriptors: took %d", data, count, taken)
			}
		}
		if after := descriptors(t); after != before-1 { // conn is closed too
			t.Fatalf("%v, %d descriptors sent: %d are open, %d before", data, count, after, before)
		}
	})
}
