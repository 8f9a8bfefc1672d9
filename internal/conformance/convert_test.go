//go:build linux

package conformance_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/sif"
)

// upper changes what a distribution has in every way that a layer can.
func upper() testtree.Tree {
	return testtree.Tree{
		testtree.Dir("etc", 0o755),
		testtree.File("etc/hostname", 0o640, "solver\n", testtree.Owner(0, 42)),
		testtree.Whiteout("etc/issue"),
		testtree.Dir("usr", 0o755),
		testtree.Dir("usr/share", 0o755),
		testtree.Whiteout("usr/share/doc"),
		testtree.Dir("usr/share/man", 0o755),
		testtree.Opaque("usr/share/man"),
		testtree.File("usr/share/man/only-this", 0o644, "kept\n"),
		testtree.Dir("usr/local", 0o755),
		testtree.Dir("usr/local/bin", 0o2755, testtree.Owner(0, 50)),
		testtree.File("usr/local/bin/ping", 0o755, "#!/bin/sh\n",
			testtree.Xattr("security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")),
		testtree.Hardlink("usr/local/bin/ping6", "usr/local/bin/ping"),
		testtree.File("usr/local/bin/su-exec", 0o4755, testtree.Bytes(1, 200_000), testtree.Owner(0, 1000)),
		testtree.Dir("srv", 0o755),
		testtree.Dir("srv/data", 0o1777, testtree.Owner(1000, 1000), testtree.Xattr("user.site", "x")),
		testtree.File("srv/data/zeros", 0o600, testtree.Zeros(1<<20), testtree.Owner(1000, 1000)),
		testtree.File("srv/data/"+strings.Repeat("long", 50), 0o600, "long\n"),
		testtree.File("srv/data/größe", 0o600, "utf-8\n"),
		testtree.Symlink("srv/link", "data/nowhere", testtree.Owner(1000, 1000)),
		testtree.Char("srv/null", 0o666, 1, 3),
		testtree.FIFO("srv/pipe", 0o600),
	}
}

// pushed is the image in a registry and, for umoci, in a layout.
type pushed struct{ reference, layout string }

func pushPython(t *testing.T) pushed {
	t.Helper()
	img := withLayer(t, openImage(t, realImage(t, "python"), "v1"), upper())
	p := pushed{layout: filepath.Join(t.TempDir(), "layout")}
	if _, err := image.WriteLayout(t.Context(), p.layout, img, "v1"); err != nil {
		t.Fatal(err)
	}
	p.reference = fmt.Sprintf("docker://%s/debian/python:v1", startRegistry(t))
	oracle.Run(t, "skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", "oci:"+p.layout+":v1", p.reference)
	return p
}

// TestRegistry converts a distribution from a registry and compares what the kernel then mounts with what umoci unpacks.
func TestRegistry(t *testing.T) {
	p := pushPython(t)
	rootfs, begin := unpack(t, p.layout, "v1")
	want := walk(t, rootfs)

	img, err := image.Open(t.Context(), p.reference, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("squashfs", func(t *testing.T) {
		file := convertTo(t, img, "debian.sqfs")
		dir := oracle.KernelMount(t, file)
		got := walk(t, dir)
		noDiff(t, settled(want, got, begin), got, nil)
		runNumPy(t, dir)
	})
	t.Run("sif", func(t *testing.T) {
		file := convertTo(t, img, "debian.sif")
		f, err := sif.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		primary, err := f.Primary()
		if err != nil {
			t.Fatal(err)
		}
		dir := oracle.KernelMountAt(t, file, primary.Offset, primary.Size)
		got := walk(t, dir)
		if _, ok := got[".singularity.d/runscript"]; !ok {
			t.Error("no run script")
		}
		// A SIF adds files for Apptainer and empties two that a runtime binds over. Nothing else is changed or missing.
		noDiff(t, settled(want, got, begin), got, &testtree.DiffOptions{Ignore: func(path string) bool {
			if path == "etc/hosts" || path == "etc/resolv.conf" {
				n := got[path]
				return n.Mode == 0o644 && n.Size == 0 && n.UID == 0 && n.GID == 0
			}
			_, inImage := want[path]
			return !inImage && addedForApptainer(path)
		}})
		runNumPy(t, dir)
	})
	t.Run("command line", func(t *testing.T) {
		oracle.UserNS(t)
		pullAndExec(t, p.reference)
	})
}

// addedForApptainer says whether a path is among those that Apptainer's own images have beyond the image's.
func addedForApptainer(path string) bool {
	top, _, _ := strings.Cut(path, "/")
	switch top {
	case ".singularity.d", ".exec", ".run", ".shell", ".test", "singularity", "environment":
		return true
	}
	switch path {
	case "dev", "proc", "sys", "root", "home", "tmp", "var", "var/tmp", "etc", "bin", "bin/sh":
		return true
	}
	return false
}

func convertTo(t *testing.T, img *image.Image, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if _, err := convert.Convert(t.Context(), convert.FromImage(img), file, nil); err != nil {
		t.Fatal(err)
	}
	return file
}

// runNumPy proves that what is mounted is not only right but works.
func runNumPy(t *testing.T, rootfs string) {
	t.Helper()
	cmd := exec.Command(oracle.Tool(t, "chroot"), rootfs, "/usr/bin/python3", "-B", "-c", "import numpy; print(numpy.arange(10).sum())")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "OPENBLAS_NUM_THREADS=1"}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "45" {
		t.Errorf("python3 in the image: %q, %v", out, err)
	}
}

func walk(t *testing.T, dir string) testtree.Listing {
	t.Helper()
	l, err := testtree.Walk(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func noDiff(t *testing.T, want, got testtree.Listing, o *testtree.DiffOptions) {
	t.Helper()
	if diff := testtree.Diff(want, got, o); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
