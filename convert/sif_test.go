package convert_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/sif"
	"hpcimg/squashfs"
)

// toSIF converts to a SIF and returns its path and what its partition holds.
func toSIF(t testing.TB, src *convert.Source, opts *convert.Options) (string, testtree.Listing, *convert.Result) {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "image.sif")
	result, err := convert.Convert(t.Context(), src, dst, opts)
	if err != nil {
		t.Fatal(err)
	}
	f, err := sif.Open(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := f.Primary()
	if err != nil {
		t.Fatal(err)
	}
	r, err := squashfs.NewReader(p.Open(), p.Size, nil)
	if err != nil {
		t.Fatal(err)
	}
	list, err := testtree.FromFS(r)
	if err != nil {
		t.Fatal(err)
	}
	return dst, list, result
}

func TestSIF(t *testing.T) {
	base := sample(t)
	config := base.Config()
	created := time.Date(2024, 2, 3, 4, 5, 6, 0, time.UTC)
	config.Created = &created
	config.Config.Env = []string{"PATH=/opt/bin:/bin", "A=b"}
	config.Config.Entrypoint = []string{"/opt/app"}
	config.Config.Labels = map[string]string{"org.example": "x"}
	img := rebuild(t, config, base)

	path, list, result := toSIF(t, convert.FromImage(img), &convert.Options{SIF: convert.SIFOptions{
		Labels: map[string]string{"mine": "1"}, Tool: "hpcimg", Version: "1.2",
	}})
	f, err := sif.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := f.Header().Arch; got != img.Platform().Architecture || result.Arch != got {
		t.Errorf("architecture %q", got)
	}
	p, err := f.Primary()
	if err != nil {
		t.Fatal(err)
	}
	objects := f.Objects()
	last, origin := objects[len(objects)-1], objects[len(objects)-2]
	if origin.Name != convert.ProvenanceObject || origin.Offset != p.Offset+p.Size {
		t.Errorf("%s at %d behind a partition that ends at %d", origin.Name, origin.Offset, p.Offset+p.Size)
	}
	if p.Offset%4096 != 0 || p.Size%4096 != 0 || last.Name != convert.ReuseObject || last.Offset < origin.Offset+origin.Size || last.Offset >= origin.Offset+origin.Size+8 || last.Offset+last.Size != result.Size {
		t.Errorf("partition of %d bytes at %d, %s of %d at %d in a file of %d", p.Size, p.Offset, last.Name, last.Size, last.Offset, result.Size)
	}
	metadata, err := f.Metadata()
	if err != nil {
		t.Fatal(err)
	}
	labels := metadata.Data.Attributes.Labels
	for key, want := range map[string]string{"org.example": "x", "mine": "1", "org.label-schema.build-date": "Saturday_3_February_2024_4:5:6_UTC"} {
		if labels[key] != want {
			t.Errorf("label %s is %q, want %q", key, labels[key], want)
		}
	}
	raw, err := f.JSON(sif.NameOCIConfig)
	if err != nil {
		t.Fatal(err)
	}
	var oci struct{ Entrypoint []string }
	if err := json.Unmarshal(raw, &oci); err != nil || len(oci.Entrypoint) != 1 {
		t.Errorf("oci-config.json %s: %v", raw, err)
	}
	definition, err := f.Definition()
	if err != nil || !strings.Contains(string(definition), img.Descriptor().Digest.String()) {
		t.Errorf("definition %q, %v", definition, err)
	}
	for path, want := range map[string]string{
		"etc/hosts": "-rw-r--r--", "etc/resolv.conf": "-rw-r--r--", ".singularity.d/runscript": "-rwxr-xr-x",
		"environment": "Lrwxrwxrwx", "proc": "drwxr-xr-x",
	} {
		if got := list[path].Mode.String(); got != want {
			t.Errorf("%s has mode %s, want %s", path, got, want)
		}
	}
	if n := list["etc/hosts"]; n.Size != 0 {
		t.Errorf("etc/hosts has %d bytes", n.Size)
	}
	if data, err := os.ReadFile(path); err != nil || bytes.Contains(data, []byte("build-host")) {
		t.Errorf("the image holds etc/hosts of the build host (%v)", err)
	}
	if n := list["opt/app2"]; n.Size != 300_000 {
		t.Errorf("opt/app2 %v", n)
	}
}

// rebuild returns the layers of img under another config.
func rebuild(t testing.TB, config image.Config, img *image.Image) *image.Image {
	t.Helper()
	var inputs []image.LayerInput
	for _, l := range img.Layers() {
		inputs = append(inputs, image.LayerInput{
			Compression: l.Compression(),
			Blob:        func() (io.ReadCloser, error) { return l.Open(t.Context()) },
		})
	}
	again, err := image.Build(config, inputs...)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// TestRootFiles has images in which something is in the way of what a runtime needs.
func TestRootFiles(t *testing.T) {
	tests := []struct {
		name   string
		layers []tree
		want   map[string]string // path -> start of the mode, or link target
	}{
		{"nothing there", []tree{{}}, map[string]string{"tmp": "drwxr-xr-x", "var/tmp": "drwxr-xr-x", "singularity": "-> .singularity.d/runscript"}},
		{"kept", []tree{{dir("tmp", 0o1777), symlink("var/tmp", "/tmp"), file("singularity", "mine")}}, map[string]string{
			"tmp": "dtrwxrwxrwx", "var/tmp": "-> /tmp", "singularity": "-rw-r--r--",
		}},
		{"wrong link", []tree{{symlink("singularity", "elsewhere"), symlink(".run", "x")}}, map[string]string{
			"singularity": "-> .singularity.d/runscript", ".run": "-> .singularity.d/actions/run",
		}},
		{"etc is a link", []tree{{symlink("etc", "usr/etc"), file("usr/etc/hosts", "mine")}}, map[string]string{
			"etc": "-> usr/etc", "usr/etc/hosts": "-rw-r--r--",
		}},
		{"resolv.conf is a link", []tree{{symlink("etc/resolv.conf", "../run/resolv.conf"), file("run/resolv.conf", "mine")}}, map[string]string{
			"etc/resolv.conf": "-rw-r--r--", "run/resolv.conf": "-rw-r--r--",
		}},
		{".singularity.d leads out", []tree{{symlink(".singularity.d", "/etc")}}, map[string]string{
			".singularity.d": "drwxr-xr-x", ".singularity.d/runscript": "-rwxr-xr-x",
		}},
		{"was a SIF before", []tree{{file(".singularity.d/Singularity", "old"), file(".singularity.d/bootstrap_history/Apptainer0", "older")}}, map[string]string{
			".singularity.d/Singularity": "-rw-r--r--", ".singularity.d/bootstrap_history/Apptainer1": "-rw-r--r--",
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, list, _ := toSIF(t, convert.FromImage(build(t, test.layers...)), nil)
			for path, want := range test.want {
				n := list[path]
				got := n.Mode.String()
				if n.Target != "" {
					got = "-> " + n.Target
				}
				if got != want {
					t.Errorf("%s is %s, want %s", path, got, want)
				}
			}
		})
	}
}

// TestRootFilesKeepContents has files whose names sif wants to replace, while their contents are needed elsewhere.
func TestRootFilesKeepContents(t *testing.T) {
	_, list, result := toSIF(t, convert.FromImage(build(t, tree{file("etc/hosts", "mine"), link("keep", "etc/hosts")})), nil)
	if n := list["keep"]; n.Size != 4 || n.Group != "" {
		t.Errorf("keep: %v", n)
	}
	if n := list["etc/hosts"]; n.Size != 0 {
		t.Errorf("etc/hosts: %v", n)
	}
	if !result.Layers[0].Repacked {
		t.Errorf("the layer was not read again")
	}
}

const elfHeader = "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00"

func TestArchitecture(t *testing.T) {
	program := func(path, machine string) testtree.Entry { return testtree.File(path, 0o755, elfHeader+machine+"....") }
	const amd64, arm64 = "\x3e\x00", "\xb7\x00"
	shell := tree{program("usr/bin/dash", arm64), symlink("usr/bin/sh", "dash"), symlink("bin", "usr/bin"), program("a", amd64)}
	config := image.Config{}
	config.Architecture, config.OS = "amd64", "linux"
	img, err := image.Build(config, image.LayerInput{Tar: shell.Tar(nil)})
	if err != nil {
		t.Fatal(err)
	}
	_, _, result := toSIF(t, convert.FromImage(img), nil)
	if result.Arch != "amd64" || len(result.Warnings) != 1 || result.Warnings[0].Code != convert.WarnArch {
		t.Errorf("architecture %s, warnings %v", result.Arch, result.Warnings)
	}
	dst := filepath.Join(t.TempDir(), "image.sif")
	_, err = convert.Convert(t.Context(), convert.FromImage(img), dst, &convert.Options{SIF: convert.SIFOptions{StrictArch: true}})
	if !errors.Is(err, convert.ErrArch) {
		t.Errorf("error %v, want ErrArch", err)
	}
	path, list, result := toSIF(t, convert.FromTar(bytes.NewReader(shell.TarGzip(nil))), nil)
	if result.Arch != "arm64" || list["usr/bin/dash"].Size == 0 {
		t.Errorf("tar: architecture %s, %v", result.Arch, list["usr/bin/dash"])
	}
	f, err := sif.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.JSON(sif.NameOCIConfig); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a tar stream has an OCI config: %v", err)
	}
	_, err = convert.Convert(t.Context(), convert.FromTar(bytes.NewReader(tree{file("f", "f")}.Tar(nil))), dst, nil)
	if !errors.Is(err, convert.ErrArch) {
		t.Errorf("no program: error %v, want ErrArch", err)
	}
}

// TestTarAndDirectory converts the same tree from a tar stream, from a directory, and as an image.
func TestTarAndDirectory(t *testing.T) {
	oracle.Root(t)
	files := tree{
		dir(".", 0o755), dir("d", 0o1770, testtree.Owner(5, 6), testtree.Xattr("user.x", "y")),
		testtree.File("d/f", 0o4711, testtree.Text(1, 50_000), testtree.Owner(1, 2), testtree.Xattr("user.z", "")),
		link("d/g", "d/f"), symlink("l", "d/f"), testtree.Char("null", 0o666, 1, 3), testtree.FIFO("p", 0o600),
		file("empty", ""), testtree.File("zeros", 0o644, testtree.Zeros(300_000)),
	}
	root := t.TempDir()
	files.Dir(t, root)
	want := files.Listing()
	delete(want, ".")
	for name, src := range map[string]*convert.Source{
		"tar": convert.FromTar(bytes.NewReader(files.Tar(nil))), "tar.gz": convert.FromTar(bytes.NewReader(files.TarGzip(nil))),
		"directory": convert.FromDir(root), "image": convert.FromImage(build(t, files)),
	} {
		dst := filepath.Join(t.TempDir(), "image.sqfs")
		if _, err := convert.Convert(t.Context(), src, dst, nil); err != nil {
			t.Fatal(err)
		}
		r, err := squashfs.Open(dst, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := testtree.FromFS(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		delete(got, ".")
		if diff := testtree.Diff(want, got, nil); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
	// Whiteouts are a matter of layers: in a directory they are files.
	odd := t.TempDir()
	tree{file(".wh.x", ""), file("x", "x")}.Dir(t, odd)
	_, list, _ := toSIF(t, convert.FromDir(odd), &convert.Options{SIF: convert.SIFOptions{Arch: "amd64"}})
	if _, ok := list[".wh.x"]; !ok || list["x"].Size != 1 {
		t.Errorf("directory with a file named like a whiteout: %v", list.Paths())
	}
	src := convert.FromTar(bytes.NewReader(files.Tar(nil)))
	for i := range 2 {
		_, err := convert.Convert(t.Context(), src, filepath.Join(t.TempDir(), "image.sqfs"), nil)
		if (err == nil) != (i == 0) {
			t.Errorf("conversion %d of a stream: %v", i, err)
		}
	}
}

// TestKernelMount has the kernel read what we write.
func TestKernelMount(t *testing.T) {
	oracle.Root(t)
	img := sample(t)
	path, list, _ := toSIF(t, convert.FromImage(img), nil)
	f, err := sif.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := f.Primary()
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := testtree.Walk(oracle.KernelMountAt(t, path, p.Offset, p.Size))
	if err != nil {
		t.Fatal(err)
	}
	if diff := testtree.Diff(kernel, list, nil); diff != "" {
		t.Errorf("(-kernel +ours)\n%s", diff)
	}
}

// TestFullDisk converts to a file system without enough room, at several sizes.
func TestFullDisk(t *testing.T) {
	oracle.Root(t)
	base := tree{}
	for i := range 20 {
		base = append(base, testtree.File(string(rune('a'+i)), 0o644, testtree.Bytes(uint64(i), 100_000)))
	}
	img := build(t, base, base[:10], tree{symlink("x", "."), testtree.File("x/a", 0o644, testtree.Bytes(99, 100_000))})
	for _, kilobytes := range []string{"16", "64", "300", "1000", "2000"} {
		dir := tmpfs(t, kilobytes+"k")
		old := filepath.Join(dir, "image.sif")
		if err := os.WriteFile(old, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := convert.Convert(t.Context(), convert.FromImage(img), old, &convert.Options{Force: true})
		e, ok := errors.AsType[*convert.Error](err)
		if !errors.Is(err, syscall.ENOSPC) || !ok || e.Side != convert.SideDestination {
			t.Errorf("%s kB: error %v (%+v)", kilobytes, err, e)
		}
		if data, err := os.ReadFile(old); err != nil || string(data) != "old" {
			t.Errorf("%s kB: old file has %q, %v", kilobytes, data, err)
		}
		if left := readDir(t, dir); len(left) != 1 {
			t.Errorf("%s kB: left %v", kilobytes, left)
		}
	}
}

func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	oracle.Run(t, "mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir)
	t.Cleanup(func() { oracle.Run(t, "umount", dir) })
	return dir
}
