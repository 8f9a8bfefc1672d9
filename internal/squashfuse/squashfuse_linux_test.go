package squashfuse_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	"hpcimg/internal/squashfuse"
)

// help is what the program prints, as far as anybody looks.
const help = "squashfuse 9.9 (c) somebody\n    -o uid=N  set file owner\n    -o clone_fd"

// script is a program that prints the help that it is expected to, and does something else otherwise.
func script(t testing.TB, otherwise string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "program")
	text := fmt.Sprintf("#!/bin/sh\n[ \"$1\" != -h ] || { echo '%s'; exit 2; }\n%s\n", help, otherwise)
	if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func find(t testing.TB, name string) *squashfuse.Program {
	t.Helper()
	p, err := squashfuse.Find(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFind(t *testing.T) {
	if p := find(t, script(t, "")); p.Version != "squashfuse 9.9" || !p.SetsOwner || !filepath.IsAbs(p.Path) {
		t.Errorf("got %+v", p)
	}
	oracle.Tool(t, squashfuse.Name)
	if p := find(t, ""); !strings.HasPrefix(p.Version, "squashfuse 0.") || filepath.Base(p.Path) != squashfuse.Name {
		t.Errorf("the installed one: %+v", p)
	}
}

func TestFindErrors(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"another program": {"echo hello", "does not speak of squashfuse"},
		"says nothing":    {"exit 1", "does not speak of squashfuse"},
		"libfuse 2":       {"echo 'squashfuse 0.1.103 (c)'", "libfuse 2"},
		"no program":      {"", "-h"},
		"much to say":     {"echo 'squashfuse 1 (c)'; exec yes", "signal: broken pipe"},
	} {
		file := filepath.Join(t.TempDir(), "program")
		text := "#!/bin/sh\n" + test.text + "\n"
		if test.text == "" {
			text = "no program\n"
		}
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		_, err := squashfuse.Find(ctx, file)
		cancel()
		if name == "much to say" && errors.Is(err, context.DeadlineExceeded) {
			continue // it is read to the end, and kept as far as there is room
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || len(err.Error()) > 300 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := squashfuse.Find(t.Context(), "no-such-program"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("no such program: %v", err)
	}
}

// TestDescriptors has a program that lists what it has got, under a caller that has more.
func TestDescriptors(t *testing.T) {
	extra, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	fd, err := unix.FcntlInt(extra.Fd(), unix.F_DUPFD, 50) // for all children of the caller
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	device, image := open(t, "device"), open(t, "image")
	server, err := find(t, script(t, `all=; for f in /proc/$$/fd/*; do all="$all; ${f##*/} $(readlink $f)"; done; echo "fds$all" >&2; env | grep -v ^PWD= >&2; echo "args $*" >&2; echo stdout; read line && echo input >&2; ls -di /proc/self/ns/mnt >/dev/null; sed -n 's/^NoNewPrivs:\t/no_new_privs /p; s/^SigBlk:\t/blocked /p' /proc/self/status >&2; exit 3`)).Start(
		&squashfuse.Options{Device: device, Image: image, Offset: 4096, UID: 12, GID: 34},
	)
	if err != nil {
		t.Fatal(err)
	}
	err = server.Wait()
	if err == nil {
		t.Fatal("no error")
	}
	said := err.Error()
	for _, want := range []string{
		"exit status 3", device.Name(), image.Name(), "0 /dev/null", "1 /dev/null", "2 pipe:", "no_new_privs 1", "blocked 0000000000000000",
		fmt.Sprintf("args -f -o offset=4096,uid=12,gid=34 /proc/self/fd/%d /dev/fd/%d", image.Fd(), device.Fd()),
	} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in %s", want, said)
		}
	}
	for _, bad := range []string{"50 ", "input", "stdout"} {
		if strings.Contains(said, "; "+bad) {
			t.Errorf("%q in %s", bad, said)
		}
	}
	// Those of the shell are its script and the pipe that it reads the links from.
	fds, _, _ := strings.Cut(said, "args")
	if n := strings.Count(fds, "; ") - 1; n > 5+2 {
		t.Errorf("%d descriptors are more than it needs: %s", n, said)
	}
}

func open(t testing.TB, name string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestWords: what it says is kept to some length, on one line; and so is its end by a signal.
func TestWords(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"lines":  {"echo one >&2; echo two >&2; exit 1", "exit status 1: one; two"},
		"much":   {"head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1", "xxx"},
		"signal": {"kill -9 $$", "signal: killed"},
		"fine":   {"echo much ado about nothing >&2", ""},
	} {
		server, err := find(t, script(t, test.text)).Start(&squashfuse.Options{Device: open(t, "device"), Image: open(t, "image")})
		if err != nil {
			t.Fatal(err)
		}
		err = server.Wait()
		if (err == nil) != (test.want == "") || err != nil && (!strings.Contains(err.Error(), test.want) || len(err.Error()) > 5000) {
			t.Errorf("%s: %.300v", name, err)
		}
		<-server.Done()
	}
	p := find(t, script(t, ""))
	if err := os.Remove(p.Path); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Start(&squashfuse.Options{Device: open(t, "device"), Image: open(t, "image")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("gone: %v", err)
	}
}

// TestSession: signals of a terminal reach process groups, and this program is in another.
func TestSession(t *testing.T) {
	server, err := find(t, script(t, `echo "sid $(cut -d' ' -f6 /proc/$$/stat) $$" >&2; exit 1`)).Start(&squashfuse.Options{Device: open(t, "device"), Image: open(t, "image")})
	if err != nil {
		t.Fatal(err)
	}
	var sid, pid int
	_, words, _ := strings.Cut(fmt.Sprint(server.Wait()), "sid ")
	if n, _ := fmt.Sscan(words, &sid, &pid); n != 2 || sid != pid {
		t.Errorf("%q", words)
	}
}

// TestServe mounts a device in a namespace, has the program serve an image, and reads; with the last mount it ends.
func TestServe(t *testing.T) {
	oracle.Tool(t, squashfuse.Name)
	oracle.Tool(t, "mksquashfs")
	oracle.UserNS(t)
	device := oracle.FUSE(t)
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/tree", 0o755), os.WriteFile(dir+"/tree/hello", []byte("world\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "mksquashfs", dir+"/tree", dir+"/image", "-quiet", "-no-progress", "-all-root")
	image, err := os.Open(dir + "/image")
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()

	// A shell mounts, says so, and looks at the mount as soon as it is told that somebody serves it.
	cmd := exec.Command("sh", "-c", `exec 7<>"$1" && mount -i -t fuse x /mnt -o ro,fd=7,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other &&
		echo mounted && read line && exec 7<&- && cat /mnt/hello && read line`, "sh", device)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	read := func() string {
		buf := make([]byte, 64)
		n, err := out.Read(buf)
		if err != nil && err != io.EOF {
			t.Error(err)
		}
		return string(buf[:n])
	}
	if s := read(); s != "mounted\n" {
		t.Fatalf("%q", s)
	}
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, 7, 0)
	if err != nil {
		t.Fatal(err)
	}
	dev := os.NewFile(uintptr(fd), device)
	server, err := find(t, "").Start(&squashfuse.Options{Device: dev, Image: image})
	if err != nil {
		t.Fatal(err)
	}
	dev.Close()
	if _, err := io.WriteString(in, "served\n"); err != nil {
		t.Fatal(err)
	}
	if s := read(); s != "world\n" {
		t.Errorf("%q", s)
	}
	select {
	case <-server.Done():
		t.Errorf("it ended before the mount: %v", server.Wait())
	case <-time.After(50 * time.Millisecond):
	}
	if _, err := io.WriteString(in, "that is all\n"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	select {
	case <-server.Done():
		if err := server.Wait(); err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("nobody has it mounted, and it still runs")
		server.Kill()
	}
}
