//go:build linux

package conformance_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/image/registry"
	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// exchanged is what travels: small, with an owner, a hard link and a symbolic link, but no device or time below a second.
func exchanged() testtree.Tree {
	return testtree.Tree{
		testtree.Dir("bin", 0o755), testtree.File("bin/sh", 0o755, testtree.Bytes(1, 5000)),
		testtree.Dir("etc", 0o755), testtree.File("etc/motd", 0o640, "hello\n", testtree.Owner(0, 42)),
		testtree.Hardlink("etc/motd2", "etc/motd"), testtree.Symlink("etc/issue", "motd"),
		testtree.Dir("srv", 0o755), testtree.File("srv/text", 0o644, testtree.Text(1, 200_000)),
	}
}

// contents is what of an image must not change on its way through other programs.
func contents(t *testing.T, img *image.Image) testtree.Listing {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "listing.sqfs")
	if _, err := convert.Convert(t.Context(), convert.FromImage(img), dst, nil); err != nil {
		t.Fatal(err)
	}
	r, err := squashfs.Open(dst, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l, err := testtree.FromFS(r)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func open(t *testing.T, ref string) *image.Image {
	t.Helper()
	img, err := image.Open(t.Context(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestExchange: skopeo, umoci and Podman read every form that we push, and we read what they make of it.
func TestExchange(t *testing.T) {
	host, dir := startRegistry(t), t.TempDir()
	source, err := image.Build(image.Config{}, image.LayerInput{Tar: exchanged().Tar(nil)})
	if err != nil {
		t.Fatal(err)
	}
	want := contents(t, source)
	same := func(what string, img *image.Image) {
		t.Helper()
		if d := testtree.Diff(want, contents(t, img), nil); d != "" {
			t.Errorf("%s: (-want +got)\n%s", what, d)
		}
	}
	skopeo := func(args ...string) {
		t.Helper()
		oracle.Run(t, "skopeo", append([]string{"--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"}, args...)...)
	}
	podman := podmanStore(t)
	for _, form := range []struct {
		layers      convert.LayerForm
		compression squashfs.Compression
	}{
		{convert.LayersTar, squashfs.CompressionGzip},
		{convert.LayersTar, squashfs.CompressionZstd},
		{convert.LayersTar, squashfs.CompressionNone},
		{convert.LayersEstargz, squashfs.CompressionGzip},
	} {
		name := fmt.Sprintf("%s-%s", form.layers, form.compression)
		made, err := convert.ToImage(t.Context(), convert.FromImage(source), &convert.Options{
			Compression: form.compression, TempDir: dir, OCI: convert.OCIOptions{Layers: form.layers},
		})
		if err != nil {
			t.Fatal(err)
		}
		ref := "docker://" + host + "/ours:" + name
		if _, err := registry.Push(t.Context(), made.Image, ref, nil); err != nil {
			t.Fatal(err)
		}
		made.Close()

		layout := filepath.Join(dir, name)
		skopeo(ref, "oci:"+layout+":v1")
		if form.compression != squashfs.CompressionZstd { // which umoci 0.4 does not know
			bundle := filepath.Join(dir, "bundle-"+name)
			args := []string{"unpack", "--image", layout + ":v1"}
			if os.Geteuid() != 0 {
				args = append(args, "--rootless")
			}
			oracle.Run(t, "umoci", append(args, bundle)...)
			if got, err := os.ReadFile(filepath.Join(bundle, "rootfs/etc/motd2")); err != nil || string(got) != "hello\n" {
				t.Errorf("%s: umoci unpacks %q, %v", name, got, err)
			}
		}
		switch archive := filepath.Join(dir, name+".tar"); {
		case form.layers != convert.LayersTar: // eStargz has files of its own
		case form.compression == squashfs.CompressionZstd: // which Docker archives cannot have
			same(name+" by skopeo in a layout", open(t, "oci:"+layout+":v1"))
		default:
			same(name+" by skopeo in a layout", open(t, "oci:"+layout+":v1"))
			skopeo(ref, "docker-archive:"+archive+":example.org/x:1")
			same(name+" by skopeo in a Docker archive", open(t, "docker-archive:"+archive))
			skopeo("--dest-compress-format", "zstd", "docker-archive:"+archive, "docker://"+host+"/theirs:"+name)
			same(name+" pushed by skopeo", open(t, "docker://"+host+"/theirs:"+name))
		}
		if podman != nil {
			podman("pull", "-q", "--tls-verify=false", host+"/ours:"+name)
			podman("push", "-q", "--tls-verify=false", host+"/ours:"+name, host+"/podman:"+name)
			back := open(t, "docker://"+host+"/podman:"+name)
			if form.layers == convert.LayersTar {
				same(name+" pushed by Podman", back)
			}
		}
	}
}

// podmanStore runs podman with a store of its own, or is nil for an ordinary user, who may lack what that takes.
func podmanStore(t *testing.T) func(args ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	dir, err := os.MkdirTemp("", "p") // Podman wants short paths below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	store := strings.Fields("--storage-driver vfs --cgroup-manager cgroupfs --root " + dir + "/root --runroot " + dir + "/run")
	return func(args ...string) { oracle.Run(t, "podman", append(append([]string{}, store...), args...)...) }
}

// TestSegmentsTravel: skopeo copies what it does not know, and it comes back as the file that it is.
func TestSegmentsTravel(t *testing.T) {
	host, dir := startRegistry(t), t.TempDir()
	source, err := image.Build(image.Config{}, image.LayerInput{Tar: exchanged().Tar(nil)})
	if err != nil {
		t.Fatal(err)
	}
	local := filepath.Join(dir, "local.sif")
	if _, err := convert.Convert(t.Context(), convert.FromImage(source), local, nil); err != nil {
		t.Fatal(err)
	}
	made, err := convert.CutSIF(t.Context(), local)
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	ref := "docker://" + host + "/segments:1"
	if _, err := registry.Push(t.Context(), made.Image, ref, nil); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", ref, "oci:"+dir+"/layout:1")
	back := filepath.Join(dir, "back.sif")
	if _, err := convert.Convert(t.Context(), convert.FromImage(open(t, "oci:"+dir+"/layout:1")), back, nil); err != nil {
		t.Fatal(err)
	}
	a, err := os.ReadFile(local)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(back); err != nil || string(a) != string(b) {
		t.Errorf("another file, %v", err)
	}
}
