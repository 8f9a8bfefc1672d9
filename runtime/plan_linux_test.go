package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"hpcimg/internal/golden"
	hpcrun "hpcimg/runtime"
	"hpcimg/squashfs"
)

// TestPlans compares dry runs with golden ones: for a host of which all is known, and images in a directory of the test.
func TestPlans(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, d := range []string{"image/etc", "image/proc", "image/sys", "image/dev", "image/tmp", "image/home", "host/lib"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range map[string]string{"image/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "image/etc/group": "root:x:0:\n", "host/file": "", "host/lib/libx.so.1.2": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sqfs := filepath.Join(dir, "image.sqfs")
	err := squashfs.Create(t.Context(), sqfs, nil, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromDir(ctx, filepath.Join(dir, "image"), nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	none := hpcrun.Omit{Proc: true, Sys: true, Dev: true, Tmp: true, Home: true, HostDir: true, Etc: true}
	user := &hpcrun.User{Name: "ada", UID: 1000, GID: 1000, Home: dir + "/host"}
	binds := []hpcrun.Bind{{Source: dir + "/host", Target: "/data/in"}, {Source: dir + "/host/file", Target: "/etc/file", ReadOnly: true}}
	ordinary := hpcrun.Facts{UID: 1000, GID: 1000}
	for _, test := range []struct {
		name  string
		spec  hpcrun.Spec
		facts hpcrun.Facts
	}{
		{"least", hpcrun.Spec{Image: hpcrun.Image{Path: dir + "/image"}, Args: []string{"/bin/true"}, Omit: none}, hpcrun.Facts{Admin: true}},
		{"kernel", hpcrun.Spec{Image: hpcrun.Image{Path: sqfs}, Args: []string{"true", "x"}, Omit: none, Env: []string{"PATH=/bin:.:/usr/bin", "PMI_SHARED_SECRET=1"}}, hpcrun.Facts{Admin: true}},
		{"user-memory", hpcrun.Spec{Image: hpcrun.Image{Path: sqfs, FUSEDevice: "/no/fuse"}, Args: []string{"/bin/true"}, Omit: none, Binds: binds, Dir: "/data"}, ordinary},
		{"user-binds", hpcrun.Spec{Image: hpcrun.Image{Path: dir + "/image"}, Args: []string{"/bin/true"}, Omit: none, Binds: binds, Identity: hpcrun.IdentityRoot}, ordinary},
		{"old-kernel", hpcrun.Spec{Image: hpcrun.Image{Path: dir + "/image"}, Args: []string{"/bin/true"}, Omit: none, Binds: binds[1:]}, hpcrun.Facts{UID: 1000, GID: 1000, OldKernel: true}},
		{"disk", hpcrun.Spec{Image: hpcrun.Image{Path: sqfs, ExtractDir: dir}, Args: []string{"/bin/true"}, Omit: none}, ordinary},
		{"fuse", hpcrun.Spec{Image: hpcrun.Image{Path: sqfs, Backend: hpcrun.BackendFUSE, FUSEDevice: dir + "/host/file"}, Args: []string{"/bin/true"}, Omit: none, Binds: binds}, ordinary},
		{"writable", hpcrun.Spec{Image: hpcrun.Image{Path: dir + "/image"}, Args: []string{"/bin/true"}, Omit: none, Overlay: hpcrun.Overlay{Tmpfs: true, TmpfsSize: 1 << 20}}, ordinary},
		{"overlays", hpcrun.Spec{Image: hpcrun.Image{Path: sqfs}, Args: []string{"/bin/true"}, Omit: none, Binds: binds, Overlay: hpcrun.Overlay{Dir: dir + "/host", Layers: []string{dir + "/host/lib"}}}, hpcrun.Facts{Admin: true}},
		{"images", hpcrun.Spec{
			Image: hpcrun.Image{Path: sqfs, Backend: hpcrun.BackendFUSE, FUSEDevice: dir + "/host/file"}, Args: []string{"/bin/true"}, Omit: none,
			Binds:   []hpcrun.Bind{{Source: sqfs, Target: "/data/etc", ImageDir: "/etc"}},
			Overlay: hpcrun.Overlay{Layers: []string{sqfs, dir + "/host/lib"}},
			Limits:  []hpcrun.Limit{{Name: "core", Hard: 1}, {Name: "nofile", Soft: 9, Hard: 9}}, Umask: new(fs.FileMode(0o77)),
		}, ordinary},
		{"contained", hpcrun.Spec{
			Image: hpcrun.Image{Path: dir + "/image"}, Args: []string{"/bin/true"}, User: user, Contain: hpcrun.ContainAll,
			Omit: hpcrun.Omit{Etc: true, Sys: true}, Home: hpcrun.Home{Target: "/home/ada"}, Namespaces: hpcrun.Namespaces{Hostname: "node", Net: true},
			Injections: []hpcrun.Injection{{
				Name: "gpu", Notes: []string{"a note"}, Binds: []hpcrun.Bind{{Source: "/dev/zero", Target: "/dev/nvidia0"}},
				Libraries: []hpcrun.Library{{Source: dir + "/host/lib/libx.so.1.2", Names: []string{"libx.so.1.2", "libx.so.1", "libx.so"}}},
			}},
		}, ordinary},
	} {
		t.Run(test.name, func(t *testing.T) {
			plan, err := hpcrun.CompileOn(t.Context(), &test.spec, test.facts)
			if err != nil {
				t.Fatal(err)
			}
			text := strings.ReplaceAll(plan.String(), dir, "/test")
			text = regexp.MustCompile(`\|MS_(NOATIME|NODIRATIME|RELATIME)|size=\d{7,},nr_inodes=\d+`).ReplaceAllString(text, "")
			golden.Check(t, "plan-"+test.name+".txt", text)
		})
	}
}

func TestSpecErrors(t *testing.T) {
	t.Parallel()
	image := hpcrun.Image{Path: rootDir()}
	for name, spec := range map[string]hpcrun.Spec{
		"no image":       {Args: []string{"x"}},
		"no command":     {Image: image},
		"relative Dir":   {Image: image, Args: []string{"x"}, Dir: "x"},
		"bad variable":   {Image: image, Args: []string{"x"}, Env: []string{"X"}},
		"NUL":            {Image: image, Args: []string{"x\x00y"}},
		"relative bind":  {Image: image, Args: []string{"x"}, Binds: []hpcrun.Bind{{Source: "/tmp", Target: "x"}}},
		"negative":       {Image: hpcrun.Image{Path: imageFile(), Offset: -1}, Args: []string{"x"}},
		"beyond the end": {Image: hpcrun.Image{Path: imageFile(), Offset: 1 << 40}, Args: []string{"x"}},
		"wrong backend":  {Image: hpcrun.Image{Path: rootDir(), Backend: hpcrun.BackendKernel}, Args: []string{"x"}},
		"no backend":     {Image: hpcrun.Image{Path: imageFile(), Backend: "x"}, Args: []string{"x"}},
	} {
		if _, err := hpcrun.Compile(t.Context(), &spec); !errors.Is(err, fs.ErrInvalid) || hpcrun.ExitCode(err) != hpcrun.ExitSetup {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := hpcrun.Compile(t.Context(), &hpcrun.Spec{Image: hpcrun.Image{Path: rootDir() + "/etc/marker"}, Args: []string{"x"}})
	if !errors.Is(err, squashfs.ErrFormat) {
		t.Errorf("no image: %v", err)
	}
}

// TestMemoryError: an image larger than the memory is refused before anything is unpacked, one of holes is not.
func TestMemoryError(t *testing.T) {
	t.Parallel()
	const size, block = 1 << 36, 1 << 20
	for _, word := range []uint32{0, 4096} {
		words := make([]uint32, size/block)
		for i := range words {
			words[i] = word
		}
		image := filepath.Join(t.TempDir(), "image")
		f, err := os.Create(image)
		if err != nil {
			t.Fatal(err)
		}
		b, err := squashfs.NewBuilder(&squashfs.BuilderOptions{BlockSize: block})
		if err != nil {
			t.Fatal(err)
		}
		packSize := int64(len(words)) * int64(word)
		id, err := b.AddPack(&squashfs.Pack{Size: packSize, BlockSize: block}, 4096)
		if err != nil {
			t.Fatal(err)
		}
		entry := squashfs.Entry{Path: "big", Mode: 0o644, Pack: id, Content: &squashfs.Content{Size: size, Blocks: words, Fragment: -1}}
		if err := b.Add(entry); err != nil {
			t.Fatal(err)
		}
		if _, err := b.WriteTables(t.Context(), f, 4096+packSize); err != nil {
			t.Fatal(err)
		}
		f.Close()
		_, err = hpcrun.Compile(t.Context(), &hpcrun.Spec{Image: hpcrun.Image{Path: image, Backend: hpcrun.BackendExtract}, Args: []string{"x"}, Omit: hpcrun.Omit{Proc: true}})
		e, ok := errors.AsType[*hpcrun.MemoryError](err)
		if ok != (word != 0) || ok && (e.Need < size || !errors.Is(err, syscall.ENOSPC)) {
			t.Errorf("word %d: %v", word, err)
		}
	}
}

// TestHostileImages plants what an attacker would in an image, and looks at where mounts end up.
func TestHostileImages(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	for _, test := range []struct {
		name  string
		plant func(root string) error
		want  string // of the error; empty if the image runs
	}{
		{"etc leads out", link("etc", outside), ""},
		{"etc leads up", link("etc", "../../../../../../../.."+outside), ""},
		{"tmp leads out", link("tmp", "/nowhere/else"), ""},
		{"home leads out", link("root", outside), ""},
		{"dev is a link", link("dev", outside), "symbolic link"},
		{"proc is a link", link("proc", "/sys"), "symbolic link"},
		{"sys is a link", link("sys", "/proc"), "symbolic link"},
		{"proc is a file", file("proc", ""), "not a directory"},
		{"tmp is a loop", link("tmp", "tmp"), "too many levels"},
		{"tmp leads to proc", link("tmp", "/proc/self"), ""},
		{"passwd leads out", link("etc/passwd", outside+"/passwd"), ""},
		{"passwd leads to a device", link("etc/passwd", "/dev/zero"), ""},
		{"passwd is a pipe", func(root string) error {
			return errors.Join(os.Remove(root+"/etc/passwd"), syscall.Mkfifo(root+"/etc/passwd", 0o644))
		}, ""},
		{"passwd is a directory", func(root string) error {
			return errors.Join(os.Remove(root+"/etc/passwd"), os.Mkdir(root+"/etc/passwd", 0o755))
		}, ""},
		{"passwd is huge", file("etc/passwd", strings.Repeat("x", 2<<20)), ""},
		{"hosts leads out", link("etc/hosts", outside+"/hosts"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			namespaces(t)
			root := filepath.Join(t.TempDir(), "image")
			for _, d := range []string{"etc", "proc", "sys", "dev", "tmp", "root", "bin"} {
				if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(os.WriteFile(root+"/etc/passwd", nil, 0o644), copyPrograms(root), test.plant(root)); err != nil {
				t.Fatal(err)
			}
			spec := hpcrun.Spec{Image: hpcrun.Image{Path: root}, Args: sh("echo ran"), Env: []string{"PATH=/bin"}}
			out, err := output(t, spec)
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %q, %v", out, err)
				}
			} else if out != "ran\n" {
				t.Errorf("got %q, %v", out, err)
			}
			servedByFUSE(t, root, spec, test.want)
			if names, _ := filepath.Glob(outside + "/*"); len(names) > 0 {
				t.Errorf("made on the host: %v", names)
			}
		})
	}
}

// servedByFUSE runs the same files as an image that is served, where mount points are made in another way.
func servedByFUSE(t *testing.T, root string, spec hpcrun.Spec, want string) {
	device := fuseDevice(t)
	if device == "" {
		return // the test has other parts
	}
	spec.Image = hpcrun.Image{Path: root + ".sqfs", Backend: hpcrun.BackendFUSE, FUSEDevice: device}
	mustAll(t, squashfs.Create(t.Context(), spec.Image.Path, nil, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromDir(ctx, root, nil)
	}))
	for _, overlay := range []hpcrun.Overlay{{}, {Tmpfs: true}} {
		spec.Overlay = overlay
		out, err := output(t, spec)
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) || want == "" && out != "ran\n" {
			t.Errorf("by FUSE, overlay %v: %q, %v", overlay.Tmpfs, out, err)
		}
	}
}

func link(name, target string) func(string) error {
	return func(root string) error {
		return errors.Join(os.RemoveAll(filepath.Join(root, name)), os.Symlink(target, filepath.Join(root, name)))
	}
}

func file(name, data string) func(string) error {
	return func(root string) error {
		return errors.Join(os.RemoveAll(filepath.Join(root, name)), os.WriteFile(filepath.Join(root, name), []byte(data), 0o644))
	}
}

func TestWithLine(t *testing.T) {
	t.Parallel()
	const root, ada = "root:x:0:0:root:/root:/bin/sh\n", "ada:x:1000:1000::/home/ada:/bin/sh"
	for _, test := range []struct{ file, want string }{
		{"", ada + "\n"},
		{root, root + ada + "\n"},
		{strings.TrimSuffix(root, "\n"), root + ada + "\n"},
		{root + "eve:x:1000:1:::\nmallory:x:1000:1:::\n", root + ada + "\n"},
		{"junk\n::\n", "junk\n::\n" + ada + "\n"},
	} {
		if got := hpcrun.WithLine(test.file, ada); got != test.want {
			t.Errorf("%q: got %q, want %q", test.file, got, test.want)
		}
	}
}

func ExamplePlan_String() {
	spec := &hpcrun.Spec{Image: hpcrun.Image{Path: "/"}, Args: []string{"/bin/true"}}
	plan, err := hpcrun.Compile(context.Background(), spec)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(strings.HasPrefix(plan.String(), "# image /, backend directory\n"))
	// Output: true
}
