package runtime_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hpcimg/internal/oracle"
	hpcrun "hpcimg/runtime"
	"hpcimg/squashfs"
)

// TestImageChangedInPlace: a file that looks the same, but in which a directory has become a link to one of the host, is unpacked. Mount points that the
// plan wants made in it are not made there.
func TestImageChangedInPlace(t *testing.T) {
	t.Parallel()
	namespaces(t)
	dir := t.TempDir()
	// Not below /tmp, which is covered while the image is put together.
	outside, err := os.MkdirTemp("/var/tmp", "hpcimg-outside-")
	oracle.Need(t, oracle.NeedFS, err)
	t.Cleanup(func() { os.RemoveAll(outside) })
	for _, test := range []struct{ name, link string }{
		{"absolute", outside}, {"relative", "../../../../../.." + outside},
	} {
		image := filepath.Join(dir, test.name)
		root := filepath.Join(dir, "root-"+test.name)
		mustAll(t, os.MkdirAll(filepath.Join(root, "mnt"), 0o755))
		const size = 1 << 20
		write := func() {
			data := filepath.Join(t.TempDir(), "x.sqfs")
			mustAll(t, squashfs.Create(t.Context(), data, nil, func(ctx context.Context, w *squashfs.Writer) error {
				return w.FromDir(ctx, root, nil)
			}), os.Truncate(data, size))
			bytes, err := os.ReadFile(data)
			mustAll(t, err)
			f, err := os.OpenFile(image, os.O_WRONLY|os.O_CREATE, 0o644)
			mustAll(t, err)
			_, err = f.Write(bytes)
			mustAll(t, err, f.Close(), os.Chtimes(image, time.Unix(1, 0), time.Unix(1, 0)))
		}
		write()
		spec := &hpcrun.Spec{
			Image: hpcrun.Image{Path: image, Backend: hpcrun.BackendExtract}, Args: []string{"/bin/true"},
			Omit:  hpcrun.Omit{Proc: true, Sys: true, Dev: true, Tmp: true, Home: true, HostDir: true, Etc: true},
			Binds: []hpcrun.Bind{{Source: dir, Target: "/mnt/a/b"}, {Source: "/etc/passwd", Target: "/mnt/c"}},
		}
		plan, err := hpcrun.Compile(t.Context(), spec)
		mustAll(t, err)
		mustAll(t, os.Remove(filepath.Join(root, "mnt")), os.Symlink(test.link, filepath.Join(root, "mnt")))
		write()
		_, err = plan.Start(t.Context(), nil)
		if e, ok := errors.AsType[*hpcrun.SetupError](err); !ok || e.Exec {
			t.Errorf("%s: %v", test.name, err)
		}
		if names, _ := filepath.Glob(outside + "/*"); len(names) > 0 {
			t.Errorf("%s: made on the host: %v", test.name, names)
		}
	}
}

// TestUnpackedIsClosed: what is unpacked to disk is open to nobody else while it is there.
func TestUnpackedIsClosed(t *testing.T) {
	t.Parallel()
	namespaces(t)
	dir := t.TempDir()
	spec := hpcrun.Spec{
		Image: hpcrun.Image{Path: imageFile(), Backend: hpcrun.BackendExtract, ExtractDir: dir}, Env: []string{"PATH=/bin"},
		Args:  sh("stat -c %a /; stat -c %a /new/place/*; ls /new/place/*/root/etc/marker"),
		Binds: []hpcrun.Bind{{Source: dir, Target: "/new/place"}},
	}
	if got := mustOutput(t, spec); len(got) < 8 || got[:8] != "755\n700\n" {
		t.Errorf("got %q", got)
	}
	if names, _ := os.ReadDir(dir); len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
}

// TestImageMoved: the directory that is mounted is the one that somebody was asked about, or that the image was unpacked into, whatever others have put in
// its place meanwhile.
func TestImageMoved(t *testing.T) {
	t.Parallel()
	namespaces(t)
	moved := func(t *testing.T, image hpcrun.Image) {
		proc, err := start(t, hpcrun.Spec{Image: image, Args: []string{"/bin/true"}})
		if !errors.Is(err, hpcrun.ErrImageChanged) {
			t.Errorf("started %v, %v", proc, err)
		}
	}
	for how, replace := range map[string]func(image, other string) error{
		"another directory": func(image, other string) error { return os.Rename(other, image) },
		"a link":            func(image, other string) error { return os.Symlink(other, image) },
	} {
		t.Run("asked about, then "+how, func(t *testing.T) {
			image, other := smallImage(t), smallImage(t)
			moved(t, hpcrun.Image{Path: image, Admit: func(context.Context, *os.File, int64, int64) error {
				return errors.Join(os.Rename(image, image+".asked"), replace(image, other))
			}})
		})
	}
	t.Run("unpacked", func(t *testing.T) {
		for range 8 {
			unpackedMoved(t)
		}
	})
}

// unpackedMoved starts an image that is unpacked while somebody, who may rename what is in the directory, puts another in its place as soon as it is there.
func unpackedMoved(t *testing.T) {
	dir, other := t.TempDir(), smallImage(t)
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
			}
			names, _ := filepath.Glob(dir + "/hpcimg-*/root")
			if len(names) == 0 {
				continue
			}
			if info, err := os.Stat(names[0]); err == nil && info.Mode().Perm() == 0o755 {
				temp := filepath.Dir(names[0])
				_ = errors.Join(os.Rename(temp, dir+"/unpacked"), os.Mkdir(temp, 0o755), os.Rename(other, names[0]))
				return
			}
		}
	}()
	out, err := output(t, hpcrun.Spec{
		Image: hpcrun.Image{Path: imageFile(), Backend: hpcrun.BackendExtract, ExtractDir: dir}, Env: []string{"PATH=/bin"}, Args: sh("cat /etc/marker"),
	})
	close(done)
	<-ended
	if (err != nil || out != "image\n") && !errors.Is(err, hpcrun.ErrImageChanged) && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%q, %v", out, err)
	}
}

// TestImageLink: a directory is run by the name of a link to it, as sites have one for the version of the day.
func TestImageLink(t *testing.T) {
	t.Parallel()
	namespaces(t)
	dir := t.TempDir()
	mustAll(t, os.Symlink(rootDir(), dir+"/version"), os.Symlink("version", dir+"/current"))
	if got := mustOutput(t, hpcrun.Spec{Image: hpcrun.Image{Path: dir + "/current"}, Args: []string{"/bin/cat", "/etc/marker"}}); got != "image\n" {
		t.Errorf("got %q", got)
	}
}

// start starts a command, which a test does not expect to run.
func start(t testing.TB, spec hpcrun.Spec) (*hpcrun.Process, error) {
	t.Helper()
	plan, err := hpcrun.Compile(t.Context(), &spec)
	mustAll(t, err)
	defer plan.Close()
	return plan.Start(t.Context(), nil)
}

func mustAll(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
