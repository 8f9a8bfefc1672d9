package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	"hpcimg/mount"
	hpcrun "hpcimg/runtime"
	"hpcimg/squashfs"
)

// dataImage makes an image with some data, and with links that would lead to the host.
func dataImage(t testing.TB, marker string) string {
	t.Helper()
	dir := oracle.UserDir(t)
	root := filepath.Join(dir, "data")
	mustAll(t,
		os.MkdirAll(root+"/set/deep", 0o755), os.MkdirAll(root+"/etc", 0o755),
		os.WriteFile(root+"/set/deep/file", []byte(marker+"\n"), 0o644), os.WriteFile(root+"/etc/marker", []byte(marker+"\n"), 0o644),
		os.Symlink("/set/deep", root+"/link"), os.Symlink("../../../../../../../etc", root+"/out"), os.Symlink("/no/such", root+"/dangling"),
	)
	image := filepath.Join(dir, "data.sqfs")
	mustAll(t, squashfs.Create(t.Context(), image, nil, func(ctx context.Context, w *squashfs.Writer) error { return w.FromDir(ctx, root, nil) }))
	return image
}

// withFUSE skips what is not served, and gives the rest the device of the tests.
func withFUSE(t testing.TB, spec *hpcrun.Spec) {
	t.Helper()
	fuse(t)
	spec.Image.FUSEDevice = fuseDevice(t)
	if spec.Image.FUSEDevice == "" {
		spec.Image.FUSEDevice = oracle.FUSE(t)
	}
}

// TestImageBinds binds parts of images, next to every way of reaching the image that the command runs in.
func TestImageBinds(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		withFUSE(t, &spec)
		one, two := dataImage(t, "one"), dataImage(t, "two")
		spec.Binds = []hpcrun.Bind{
			{Source: one, Target: "/not/there", ImageDir: "/"},
			{Source: two, Target: "/mnt/set", ImageDir: "/link"},
			{Source: two, Target: "/opt/text", ImageDir: "/set/deep/file"},
			{Source: one, Target: "/mnt/etc", ImageDir: "/out"}, // of the image, not of the host
			{Source: one, Target: "/mnt/set/deep", ImageDir: "/set/deep", Optional: true},
		}
		spec.Binds = spec.Binds[:4]
		spec.Args = sh("cat /not/there/set/deep/file /mnt/set/file /opt/text /mnt/etc/marker /etc/marker; ls /mnt/etc; touch /not/there/x 2>/dev/null || echo read-only; echo x 2>/dev/null >/mnt/set/file || echo read-only")
		want := "one\ntwo\ntwo\none\nimage\nmarker\nread-only\nread-only\n"
		for _, overlay := range []hpcrun.Overlay{{}, {Tmpfs: true}} {
			spec.Overlay = overlay
			if out := mustOutput(t, spec); out != want {
				t.Errorf("overlay %+v: got %q, want %q", overlay, out, want)
			}
		}
	})
}

// TestDamage reads what cannot be decompressed: whoever asks for that is told more than the command, to which it is an error of input.
func TestDamage(t *testing.T) {
	t.Parallel()
	namespaces(t)
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Env: []string{"PATH=/bin"}, Args: []string{"cat", "/mnt/set/deep/file"}}
	withFUSE(t, &spec)
	image := dataImage(t, strings.Repeat("text ", 100_000))
	r, err := squashfs.Open(image, nil)
	mustAll(t, err)
	info, err := fs.Stat(r, "set/deep/file")
	mustAll(t, err, r.Close())
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	mustAll(t, err)
	for b := range info.Sys().(*squashfs.Inode).Blocks() {
		_, err = f.WriteAt(make([]byte, 64), b.Offset)
		mustAll(t, err)
	}
	mustAll(t, f.Close())
	spec.Binds = []hpcrun.Bind{{Source: image, Target: "/mnt", ImageDir: "/"}}
	told := make(chan error, 100)
	spec.Image.OnError = func(err error) {
		select {
		case told <- err:
		default:
		}
	}
	if out, err := output(t, spec); hpcrun.ExitCode(err) != 1 {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	if len(told) == 0 {
		t.Fatal("nobody was told")
	}
	if e, ok := errors.AsType[*mount.ServeError](<-told); !ok || !errors.Is(e, squashfs.ErrFormat) {
		t.Errorf("told %v", e)
	}
}

// TestImageOverlay lays images over the one that the command runs in.
func TestImageOverlay(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		withFUSE(t, &spec)
		one, two := dataImage(t, "one"), dataImage(t, "two")
		dir := t.TempDir()
		mustAll(t, os.MkdirAll(dir+"/layer/etc", 0o755), os.WriteFile(dir+"/layer/etc/marker", []byte("layer\n"), 0o644), os.Mkdir(dir+"/changes", 0o755))
		for _, test := range []struct {
			overlay hpcrun.Overlay
			want    string
		}{
			{hpcrun.Overlay{Layers: []string{one}}, "one\none\nread-only\n"},
			{hpcrun.Overlay{Layers: []string{one, two}}, "two\ntwo\nread-only\n"},
			{hpcrun.Overlay{Layers: []string{dir + "/layer", one}}, "one\none\nread-only\n"},
			{hpcrun.Overlay{Layers: []string{one, dir + "/layer"}}, "layer\none\nread-only\n"},
			{hpcrun.Overlay{Layers: []string{one}, Tmpfs: true}, "one\none\n"},
			{hpcrun.Overlay{Layers: []string{one}, Dir: dir + "/changes"}, "one\none\n"},
		} {
			spec.Overlay = test.overlay
			spec.Binds = []hpcrun.Bind{{Source: dir, Target: "/also/this"}}
			spec.Args = sh("cat /etc/marker /set/deep/file; { echo x >/set/deep/file; } 2>/dev/null || echo read-only; test -d /also/this/layer && test -e /opt/text")
			if out := mustOutput(t, spec); out != test.want {
				t.Errorf("%+v: got %q, want %q", test.overlay, out, test.want)
			}
		}
	})
}

// TestImageSession has a session with an image that is bound: those who join see it, and go on when the one who serves it is gone.
func TestImageSession(t *testing.T) {
	t.Parallel()
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Env: []string{"PATH=/bin"}, Namespaces: hpcrun.Namespaces{User: true}, Shared: true}
	withFUSE(t, &spec)
	spec.Binds = []hpcrun.Bind{{Source: dataImage(t, "shared"), Target: "/data", ImageDir: "/set"}}
	dir := filepath.Join(t.TempDir(), "session")
	leading, joining := openSession(t, dir), openSession(t, dir)
	spec.Args = []string{"sleep", "1000"}
	plan, err := hpcrun.Compile(t.Context(), &spec)
	mustAll(t, err)
	leader, err := plan.Start(t.Context(), &hpcrun.StartOptions{Session: leading})
	mustAll(t, err)
	spec.Args = sh("readlink /proc/self/ns/user /proc/self/ns/mnt; cat /data/deep/file")
	out, err := (&hpcrun.Cmd{Spec: &spec, Session: joining}).Output(t.Context())
	if want := strings.ReplaceAll(namespacesOf(t, leader.PID()), " ", "\n") + "\nshared\n"; err != nil || string(out) != want {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
	// Another image at the same place is another session.
	spec.Binds[0].Source = dataImage(t, "other")
	out, err = (&hpcrun.Cmd{Spec: &spec, Session: joining}).Output(t.Context())
	if err != nil || !strings.HasSuffix(string(out), "\nother\n") {
		t.Errorf("%q, %v", out, err)
	}
	mustAll(t, leader.Kill())
	_, _ = leader.Wait()
}

// TestAdmitOthers has somebody asked about images that are bound and laid over another, before anything runs.
func TestAdmitOthers(t *testing.T) {
	t.Parallel()
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Env: []string{"PATH=/bin"}, Args: sh("cat /data/deep/file")}
	withFUSE(t, &spec)
	bound, over := dataImage(t, "bound"), dataImage(t, "over")
	spec.Binds = []hpcrun.Bind{{Source: bound, Target: "/data", ImageDir: "/set"}}
	spec.Overlay.Layers = []string{over}
	refused := errors.New("not this one")
	for _, refuse := range []string{"", bound, over} {
		var asked []string
		spec.AdmitOthers = func(_ context.Context, f *os.File, offset, size int64) error {
			info, err := f.Stat()
			if err != nil || offset != 0 || size != info.Size() {
				return fmt.Errorf("bytes %d of %d of %s, %w", offset, size, f.Name(), err)
			}
			asked = append(asked, f.Name())
			if f.Name() == refuse {
				return refused
			}
			return nil
		}
		out, err := (&hpcrun.Cmd{Spec: &spec}).Output(t.Context())
		if refuse == "" {
			if err != nil || string(out) != "bound\n" || len(asked) != 2 {
				t.Errorf("%q, %v, asked about %v", out, err, asked)
			}
		} else if !errors.Is(err, refused) || len(out) > 0 {
			t.Errorf("%s: %q, %v", refuse, out, err)
		}
	}
}

func TestImageBindErrors(t *testing.T) {
	t.Parallel()
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Args: []string{"true"}}
	withFUSE(t, &spec)
	image, junk := dataImage(t, "x"), filepath.Join(t.TempDir(), "junk")
	pipe := junk + ".pipe"
	mustAll(t, os.WriteFile(junk, make([]byte, 8192), 0o644), unix.Mkfifo(pipe, 0o644))
	for name, test := range map[string]struct {
		bind hpcrun.Bind
		is   error
	}{
		"no image":      {hpcrun.Bind{Source: junk, Target: "/mnt", ImageDir: "/"}, squashfs.ErrFormat},
		"a directory":   {hpcrun.Bind{Source: t.TempDir(), Target: "/mnt", ImageDir: "/"}, nil},
		"a pipe":        {hpcrun.Bind{Source: pipe, Target: "/mnt", ImageDir: "/"}, nil},
		"absent":        {hpcrun.Bind{Source: junk + "x", Target: "/mnt", ImageDir: "/"}, fs.ErrNotExist},
		"nothing there": {hpcrun.Bind{Source: image, Target: "/mnt", ImageDir: "/set/none"}, fs.ErrNotExist},
		"dangling":      {hpcrun.Bind{Source: image, Target: "/mnt", ImageDir: "/dangling"}, fs.ErrNotExist},
		"over a file":   {hpcrun.Bind{Source: image, Target: "/etc/marker", ImageDir: "/set"}, nil},
	} {
		spec.Binds = []hpcrun.Bind{test.bind}
		_, err := hpcrun.Compile(t.Context(), &spec)
		e, ok := errors.AsType[*hpcrun.BindError](err)
		if !ok || e.Source != test.bind.Source || test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
	spec.Binds = []hpcrun.Bind{{Source: image, Target: "/mnt", ImageDir: "/"}}
	spec.Image.FUSEDevice = "/no/such/device"
	if _, err := hpcrun.Compile(t.Context(), &spec); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "FUSE") {
		t.Errorf("no device: %v", err)
	}
	spec.Image.FUSEDevice = fuseDevice(t)
	plan, err := hpcrun.Compile(t.Context(), &spec)
	mustAll(t, err, os.WriteFile(image, []byte("something else"), 0o644))
	if _, err := plan.Start(t.Context(), nil); !errors.Is(err, hpcrun.ErrImageChanged) {
		t.Errorf("changed: %v", err)
	}
	for text, want := range map[string]hpcrun.Bind{
		"a.sqfs:/b:image-src=/c":   {Source: "a.sqfs", Target: "/b", ImageDir: "/c"},
		"a.sqfs:/b:ro,image-src=/": {Source: "a.sqfs", Target: "/b", ReadOnly: true, ImageDir: "/"},
	} {
		if got, err := hpcrun.ParseBind(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	if _, err := hpcrun.ParseBind("a:/b:image-src=c"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("relative: %v", err)
	}
}

// TestKernelReason has the kernel refuse an image: the error says what the kernel has against it.
func TestKernelReason(t *testing.T) {
	t.Parallel()
	oracle.Root(t)
	image := dataImage(t, "x")
	info, err := os.Stat(image)
	mustAll(t, err)
	plan, err := hpcrun.Compile(t.Context(), &hpcrun.Spec{Image: hpcrun.Image{Path: image, Backend: hpcrun.BackendKernel}, Args: []string{"true"}})
	mustAll(t, err)
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	mustAll(t, err)
	_, err = f.WriteAt([]byte{9}, 28) // the version of the format
	mustAll(t, err, f.Close(), os.Chtimes(image, info.ModTime(), info.ModTime()))
	_, err = plan.Start(t.Context(), nil)
	if e, ok := errors.AsType[*fs.PathError](err); !ok || e.Path != image || !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "Major/Minor mismatch") {
		t.Errorf("%v", err)
	}
	eventually(t, "the loop device went", func() bool { return !backing(image) })
}

// TestClosedPlan closes a plan whose command goes on, and reads what had not been read before.
func TestClosedPlan(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		spec.Args = sh("read line; cat /etc/marker; ls /opt/deep")
		plan, err := hpcrun.Compile(t.Context(), &spec)
		mustAll(t, err)
		in, tell, err := os.Pipe()
		mustAll(t, err)
		defer in.Close()
		get, out, err := os.Pipe()
		mustAll(t, err)
		defer get.Close()
		p, err := plan.Start(t.Context(), &hpcrun.StartOptions{Stdin: in, Stdout: out, Stderr: out})
		mustAll(t, err, plan.Close(), plan.Close(), out.Close())
		_, err = tell.WriteString("\n")
		mustAll(t, err, tell.Close())
		text, err := io.ReadAll(get)
		state, waitErr := p.Wait()
		if err = errors.Join(err, waitErr); err != nil || state.ExitCode() != 0 || !strings.HasPrefix(string(text), "image\n") {
			t.Errorf("%q, %v, %v", text, state, err)
		}
		if _, err := plan.Start(t.Context(), nil); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("started though closed: %v", err)
		}
	})
}
