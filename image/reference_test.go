package image_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hpcimg/image"
)

const (
	sha256Digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	sha512Digest = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce" +
		"47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
)

func TestParseReference(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want image.Reference
		text string // String, if it is not in
		file string
	}{
		{
			in:   "docker://alpine",
			want: image.Reference{Transport: "docker", Host: "docker.io", Repository: "library/alpine", Tag: "latest"},
			text: "docker://docker.io/library/alpine:latest", file: "alpine.latest.sif",
		},
		{
			in:   "docker://index.docker.io/library/alpine:3.19",
			want: image.Reference{Transport: "docker", Host: "docker.io", Repository: "library/alpine", Tag: "3.19"},
			text: "docker://docker.io/library/alpine:3.19", file: "alpine.3.19.sif",
		},
		{
			in:   "docker://biocontainers/bwa:v0.7",
			want: image.Reference{Transport: "docker", Host: "docker.io", Repository: "biocontainers/bwa", Tag: "v0.7"},
			text: "docker://docker.io/biocontainers/bwa:v0.7", file: "bwa.v0.7.sif",
		},
		{
			in:   "docker://localhost:5000/a/b__c-d.e:T_1.x-y",
			want: image.Reference{Transport: "docker", Host: "localhost:5000", Repository: "a/b__c-d.e", Tag: "T_1.x-y"},
			file: "b__c-d.e.T_1.x-y.sif",
		},
		{
			in:   "docker://localhost/x:1",
			want: image.Reference{Transport: "docker", Host: "localhost", Repository: "x", Tag: "1"}, file: "x.1.sif",
		},
		{
			in:   "docker://127.0.0.1:5000/x:1",
			want: image.Reference{Transport: "docker", Host: "127.0.0.1:5000", Repository: "x", Tag: "1"}, file: "x.1.sif",
		},
		{
			in:   "docker://[::1]:5000/x:1",
			want: image.Reference{Transport: "docker", Host: "[::1]:5000", Repository: "x", Tag: "1"}, file: "x.1.sif",
		},
		{
			in:   "docker://ghcr.io/o/r@" + sha256Digest,
			want: image.Reference{Transport: "docker", Host: "ghcr.io", Repository: "o/r", Digest: sha256Digest},
			file: "r.e3b0c44298fc.sif",
		},
		{
			in:   "docker://ghcr.io/o/r:v1@" + sha512Digest,
			want: image.Reference{Transport: "docker", Host: "ghcr.io", Repository: "o/r", Tag: "v1", Digest: sha512Digest},
			file: "r.v1.sif",
		},
		{
			in:   "oras://ghcr.io/o/r:v1",
			want: image.Reference{Transport: "oras", Host: "ghcr.io", Repository: "o/r", Tag: "v1"}, file: "r.v1.sif",
		},
		{in: "oci:dir", want: image.Reference{Transport: "oci", Path: "dir"}, file: "dir.sif"},
		{in: "oci:/a/b:v1", want: image.Reference{Transport: "oci", Path: "/a/b", Tag: "v1"}, file: "b.v1.sif"},
		{
			in:   "oci:/spack/gcc@13.2:x/y:z",
			want: image.Reference{Transport: "oci", Path: "/spack/gcc@13.2", Tag: "x/y:z"}, file: "gcc_13.2.x_y_z.sif",
		},
		{
			in:   "oci:/spack/gcc@13.2@" + sha256Digest,
			want: image.Reference{Transport: "oci", Path: "/spack/gcc@13.2", Digest: sha256Digest}, file: "gcc_13.2.e3b0c44298fc.sif",
		},
		{in: "oci-archive:a b.tar:v1", want: image.Reference{Transport: "oci-archive", Path: "a b.tar", Tag: "v1"}, file: "a_b.v1.sif"},
		{
			in:   "docker-archive:/x/save.tar:docker.io/library/alpine:3.19",
			want: image.Reference{Transport: "docker-archive", Path: "/x/save.tar", Tag: "docker.io/library/alpine:3.19"},
			file: "alpine.3.19.sif",
		},
		{in: "docker-archive:save.tar", want: image.Reference{Transport: "docker-archive", Path: "save.tar"}, file: "save.sif"},
		{in: "sif:/x/y.sif", want: image.Reference{Transport: "sif", Path: "/x/y.sif"}, file: "y.sif"},
		{in: "squashfs:y.sqfs", want: image.Reference{Transport: "squashfs", Path: "y.sqfs"}, file: "y.sif"},
		{in: "tar:..", want: image.Reference{Transport: "tar", Path: ".."}, file: "image.sif"},
		{in: "dir:/", want: image.Reference{Transport: "dir", Path: "/"}, file: "image.sif"},
		{in: "dir:a:b", want: image.Reference{Transport: "dir", Path: "a:b"}, file: "a_b.sif"},
	} {
		t.Run(tc.in, func(t *testing.T) {
			got, err := image.ParseReference(tc.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			text := tc.text
			if text == "" {
				text = tc.in
			}
			if got.String() != text {
				t.Errorf("String = %s, want %s", got, text)
			}
			if file := got.FileName(".sif"); file != tc.file {
				t.Errorf("FileName = %q, want %q", file, tc.file)
			}
		})
	}
}

func TestParseReferenceErrors(t *testing.T) {
	for _, tc := range []struct{ name, in, reason string }{
		{"empty", "", "no transport"},
		{"bare path", "/images/a.sif", "no transport"},
		{"bare name", "alpine:3.19", "unknown transport"},
		{"unknown transport", "http://host/x", "unknown transport"},
		{"docker without slashes", "docker:alpine", "want docker://"},
		{"no repository", "docker://", "repository"},
		{"host only", "docker://localhost:5000/", "repository"},
		{"upper case", "docker://ghcr.io/Org/x", "repository"},
		{"dot dot", "docker://ghcr.io/a/../b", "repository"},
		{"dot dot host", "docker://../x/y", ""},
		{"empty part", "docker://ghcr.io/a//b", "repository"},
		{"leading dash", "docker://ghcr.io/-a", "repository"},
		{"query", "docker://ghcr.io/a?x=y", "repository"},
		{"user", "docker://user:password@ghcr.io/a", "digest"},
		{"empty tag", "docker://ghcr.io/a:", "tag"},
		{"tag with slash", "docker://ghcr.io/a:b/c", ""},
		{"tag with dot first", "docker://ghcr.io/a:.b", "tag"},
		{"long tag", "docker://ghcr.io/a:" + strings.Repeat("x", 129), "tag"},
		{"space", "docker://ghcr.io/a b", "repository"},
		{"newline", "docker://ghcr.io/a\n", "repository"},
		{"nul", "oci:a\x00b", "NUL"},
		{"md5", "docker://ghcr.io/a@md5:d41d8cd98f00b204e9800998ecf8427e", "algorithm"},
		{"short digest", "docker://ghcr.io/a@sha256:e3b0c442", "digest"},
		{"upper-case digest", "docker://ghcr.io/a@" + strings.ToUpper(sha256Digest), "digest"},
		{"path as digest", "docker://ghcr.io/a@sha256:../../x", "digest"},
		{"empty digest", "docker://ghcr.io/a@", "digest"},
		{"layout with md5", "oci:dir@md5:d41d8cd98f00b204e9800998ecf8427e", "algorithm"},
		{"layout with path as digest", "oci:dir@sha256:../../x", "digest"},
		{"layout with both", "oci:dir:v1@" + sha256Digest, "both"},
		{"layout without path", "oci:", "no path"},
		{"layout with empty tag", "oci:dir:", "empty tag"},
		{"archive without path", "docker-archive::x", "no path"},
		{"archive with empty reference", "docker-archive:x:", "empty"},
		{"too long", "oci:" + strings.Repeat("x", 10_000), "longer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ref, err := image.ParseReference(tc.in)
			if _, ok := errors.AsType[*image.ReferenceError](err); !ok || !errors.Is(err, image.ErrReference) {
				t.Fatalf("got %v, %v; want a *ReferenceError", ref, err)
			}
			if !strings.Contains(err.Error(), tc.reason) {
				t.Errorf("error %q does not say %q", err, tc.reason)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
		})
	}
}

// FuzzParseReference: what parses is written and parsed to the same again, and can neither leave its place in a URL nor make a
// path of a file name.
func FuzzParseReference(f *testing.F) {
	for _, s := range []string{
		"docker://alpine", "docker://localhost:5000/a/b:c", "docker://ghcr.io/a@" + sha256Digest, "oci:a@b:c",
		"oci:dir@" + sha512Digest, "oci-archive:x.tar", "docker-archive:x:alpine:3", "oras://h/x", "dir:/", "tar:a:b", "sif:..",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := image.ParseReference(s)
		if err != nil {
			if !errors.Is(err, image.ErrReference) {
				t.Fatalf("%q: untyped error %v", s, err)
			}
			return
		}
		again, err := image.ParseReference(ref.String())
		if err != nil || again != ref {
			t.Fatalf("%q parses to %+v, whose text %q parses to %+v, %v", s, ref, ref, again, err)
		}
		if strings.Contains(ref.Repository, "..") || strings.ContainsAny(ref.Host+ref.Repository, "?#% \\@\x00\n") {
			t.Errorf("%q: host %q, repository %q", s, ref.Host, ref.Repository)
		}
		if ref.Digest != "" && ref.Digest.Validate() != nil {
			t.Errorf("%q: digest %q", s, ref.Digest)
		}
		if name := ref.FileName(".sif"); strings.ContainsAny(name, "/\\\x00\n") || strings.HasPrefix(name, ".") || len(name) > 255 {
			t.Errorf("%q: file name %q", s, name)
		}
	})
}
