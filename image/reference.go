package image

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	_ "crypto/sha256" // registers the digest algorithms that image documents may use
	_ "crypto/sha512"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
)

// Transport names where a reference leads.
type Transport string

// The transports a reference may name. Open reads the first five; the others name files that are not images in layers, which
// their own packages read.
const (
	TransportDocker        Transport = "docker"         // docker://HOST/REPOSITORY[:TAG|@DIGEST], an image in a registry
	TransportOCI           Transport = "oci"            // oci:DIR[:TAG|@DIGEST], an OCI image layout
	TransportOCIArchive    Transport = "oci-archive"    // oci-archive:FILE[:TAG|@DIGEST], an OCI image layout in a tar file
	TransportDockerArchive Transport = "docker-archive" // docker-archive:FILE[:REF], what docker save writes
	TransportDockerDaemon  Transport = "docker-daemon"  // docker-daemon:REF, an image that Docker or Podman has

	TransportORAS     Transport = "oras"     // oras://HOST/REPOSITORY[:TAG|@DIGEST], a SIF file in a registry
	TransportSIF      Transport = "sif"      // sif:FILE
	TransportSquashfs Transport = "squashfs" // squashfs:FILE
	TransportTar      Transport = "tar"      // tar:FILE
	TransportDir      Transport = "dir"      // dir:PATH
)

// transports in the order in which error texts list them.
func transports() []Transport {
	return []Transport{
		TransportDocker, TransportOCI, TransportOCIArchive, TransportDockerArchive, TransportDockerDaemon,
		TransportORAS, TransportSIF, TransportSquashfs, TransportTar, TransportDir,
	}
}

// remote reports whether references of this transport name a registry rather than a path.
func (t Transport) remote() bool { return t == TransportDocker || t == TransportORAS }

// defaultHost is what a reference without a host means; go-containerregistry maps it to the host that serves its API.
const defaultHost = "docker.io"

const (
	maxTagLength        = 128
	maxRepositoryLength = 255
	// maxReferenceLength is far above what any registry or PATH_MAX allows.
	maxReferenceLength = 8 << 10
)

// Reference is a parsed image reference. Host and Repository are set for registries, Path for everything on disk.
// The zero value names nothing.
type Reference struct {
	Transport  Transport
	Host       string // registry with its port, if any; "docker.io" for Docker Hub
	Repository string // with "library/" where Docker Hub implies it
	Path       string // directory or file; the name or ID of an image that a daemon has

	// Tag is the tag in a registry, the reference name in an OCI layout or the repository tag in a Docker archive. References
	// to a registry get "latest" when they name neither tag nor digest; on disk an empty tag means "the only image there".
	Tag string
	// Digest, if set, decides; a tag beside it is only kept as a name.
	Digest digest.Digest
}

// ParseReference parses "transport:rest" as the constants of [Transport] describe. Errors are *[ReferenceError].
//
// Everything that reaches a URL is checked against the grammar of the distribution specification, so that a repository such
// as "../admin" cannot leave its place in the path. Paths are taken as they are; they end at the first colon.
func ParseReference(s string) (Reference, error) {
	ref, err := parseReference(s)
	if err != nil {
		return Reference{}, &ReferenceError{Reference: clip(s, 300), Err: err}
	}
	return ref, nil
}

func parseReference(s string) (Reference, error) {
	if len(s) > maxReferenceLength {
		return Reference{}, fmt.Errorf("longer than %d bytes", maxReferenceLength)
	}
	if strings.ContainsRune(s, 0) {
		return Reference{}, fmt.Errorf("contains a NUL byte")
	}
	prefix, rest, ok := strings.Cut(s, ":")
	t := Transport(prefix)
	switch {
	case ok && slices.Contains(transports(), t):
		ref, err := parseWith(t, rest)
		if err == nil {
			err = ref.validate()
		}
		return ref, err
	case ok && !strings.Contains(prefix, "/"):
		return Reference{}, fmt.Errorf("unknown transport %q; want one of %s%s", clip(prefix, 60), transportList(), suggestion(s))
	}
	return Reference{}, fmt.Errorf("no transport; want one of %s%s", transportList(), suggestion(s))
}

// suggestion guesses what a reference without a transport was meant to be.
func suggestion(s string) string {
	for ext, t := range map[string]Transport{
		".sif": TransportSIF, ".sqfs": TransportSquashfs, ".sqsh": TransportSquashfs, ".squashfs": TransportSquashfs, ".tar": TransportTar,
	} {
		if strings.HasSuffix(s, ext) {
			return "; perhaps " + clip(string(t)+":"+s, 200)
		}
	}
	if _, err := parseRemote(TransportDocker, s); err == nil {
		return "; perhaps " + clip("docker://"+s, 200)
	}
	return ""
}

// validate checks what ends up in paths and URLs: a Reference need not come from ParseReference.
func (r Reference) validate() error {
	if r.Digest != "" {
		if err := validDigest(r.Digest); err != nil {
			return err
		}
	}
	if !slices.Contains(transports(), r.Transport) {
		return fmt.Errorf("%w: unknown transport %q; want one of %s", errors.ErrUnsupported, clip(string(r.Transport), 60), transportList())
	}
	if r.Transport.remote() {
		return r.validateRemote()
	}
	inLayout := r.Transport == TransportOCI || r.Transport == TransportOCIArchive
	switch {
	case r.Host != "" || r.Repository != "":
		return fmt.Errorf("transport %s has a path, not a host and repository", r.Transport)
	case r.Transport == TransportDockerDaemon && !validDaemonName(r.Path):
		return fmt.Errorf("%q is not the name or ID of an image", clip(r.Path, 140))
	case r.Path == "":
		return fmt.Errorf("no path after transport %s", r.Transport)
	case len(r.Path)+len(r.Tag) > maxReferenceLength:
		return fmt.Errorf("longer than %d bytes", maxReferenceLength)
	case strings.ContainsRune(r.Path+r.Tag, 0):
		return fmt.Errorf("contains a NUL byte")
	case r.Tag != "" && !inLayout && r.Transport != TransportDockerArchive:
		return fmt.Errorf("transport %s has no tags", r.Transport)
	case inLayout && len(r.Tag) > 255:
		return fmt.Errorf("tag is longer than 255 bytes")
	case r.Digest != "" && !inLayout:
		return fmt.Errorf("transport %s has no digests", r.Transport)
	}
	return nil
}

func (r Reference) validateRemote() error {
	switch {
	case r.Path != "":
		return fmt.Errorf("transport %s has a host and repository, not a path", r.Transport)
	case !hostPattern().MatchString(r.Host):
		return fmt.Errorf("host %q is not a name or address with an optional port", clip(r.Host, 140))
	case !repositoryPattern().MatchString(r.Repository) || len(r.Repository) > maxRepositoryLength:
		return fmt.Errorf("repository %q is not 1 to %d of lower-case letters and digits, parts joined by / . _ __ or -",
			clip(r.Repository, 300), maxRepositoryLength)
	case r.Tag == "" && r.Digest == "":
		return fmt.Errorf("names neither a tag nor a digest")
	case r.Tag != "" && (!tagPattern().MatchString(r.Tag) || len(r.Tag) > maxTagLength):
		return fmt.Errorf("tag %q is not 1 to %d of [A-Za-z0-9_.-], not starting with . or -", clip(r.Tag, 140), maxTagLength)
	}
	return nil
}

func transportList() string {
	var b strings.Builder
	for i, t := range transports() {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(t) + ":")
		if t.remote() {
			b.WriteString("//")
		}
	}
	return b.String()
}

func parseWith(t Transport, rest string) (Reference, error) {
	switch t {
	case TransportDocker, TransportORAS:
		bare, ok := strings.CutPrefix(rest, "//")
		if !ok {
			return Reference{}, fmt.Errorf("want %s://HOST/REPOSITORY", t)
		}
		return parseRemote(t, bare)
	case TransportOCI, TransportOCIArchive:
		return parseLayoutPath(t, rest)
	case TransportDockerArchive:
		p, tag, tagged := strings.Cut(rest, ":")
		if tagged && tag == "" {
			return Reference{}, fmt.Errorf("empty reference after %q", p)
		}
		return withPath(Reference{Transport: t, Tag: tag}, p)
	default:
		return withPath(Reference{Transport: t}, rest)
	}
}

// pattern compiles a regular expression when it is first used: programs that start a command have no use for it, and would
// wait for it all the same.
func pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// repositoryPattern and tagPattern are those of the distribution specification.
var (
	repositoryPattern = pattern(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern        = pattern(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)
	hostPattern       = pattern(`^([A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)
)

func parseRemote(t Transport, s string) (Reference, error) {
	ref := Reference{Transport: t}
	if bare, d, ok := strings.Cut(s, "@"); ok {
		s, ref.Digest = bare, digest.Digest(d)
		if err := validDigest(ref.Digest); err != nil {
			return Reference{}, err
		}
	}
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.Contains(s[i:], "/") {
		s, ref.Tag = s[:i], s[i+1:]
		if ref.Tag == "" {
			return Reference{}, fmt.Errorf("empty tag after %q", clip(s, 300))
		}
	}
	if ref.Tag == "" && ref.Digest == "" {
		ref.Tag = "latest"
	}
	repo, err := name.NewRepository(s)
	if err != nil {
		return Reference{}, err
	}
	ref.Host, ref.Repository = repo.RegistryStr(), repo.RepositoryStr()
	if ref.Host == name.DefaultRegistry {
		ref.Host = defaultHost
	}
	return ref, ref.validateRemote()
}

// digestSuffix finds a digest at the end of a path. It looks for algorithm names, not for any @: paths such as
// "gcc@13.2:latest" are common where Spack is.
var digestSuffix = pattern(`@((?:sha256|sha384|sha512|sha1|md5|blake3):[^:@]*)$`)

func parseLayoutPath(t Transport, rest string) (Reference, error) {
	ref := Reference{Transport: t}
	if m := digestSuffix().FindStringSubmatchIndex(rest); m != nil {
		ref.Digest = digest.Digest(rest[m[2]:m[3]])
		if err := validDigest(ref.Digest); err != nil {
			return Reference{}, err
		}
		rest = rest[:m[0]]
	}
	p, tag, tagged := strings.Cut(rest, ":")
	switch {
	case tagged && tag == "":
		return Reference{}, fmt.Errorf("empty tag after %q", p)
	case tagged && ref.Digest != "":
		return Reference{}, fmt.Errorf("has both a tag and a digest")
	}
	ref.Tag = tag
	return withPath(ref, p)
}

func withPath(ref Reference, p string) (Reference, error) {
	if p == "" {
		return Reference{}, fmt.Errorf("no path after transport %s", ref.Transport)
	}
	ref.Path = p
	return ref, nil
}

// String returns the reference in the form that ParseReference takes, with every default spelled out.
func (r Reference) String() string {
	var b strings.Builder
	b.WriteString(string(r.Transport) + ":")
	if r.Transport.remote() {
		b.WriteString("//" + r.Host + "/" + r.Repository)
	} else {
		b.WriteString(r.Path)
	}
	if r.Tag != "" {
		b.WriteString(":" + r.Tag)
	}
	if r.Digest != "" {
		b.WriteString("@" + r.Digest.String())
	}
	return b.String()
}

// FileName proposes a file name for what r refers to: "python.3.12.sif" for docker://docker.io/library/python:3.12 and ext
// ".sif". The tag may be missing; a digest stands in for it with its first twelve digits. The name has no separators and does
// not start with a dot.
func (r Reference) FileName(ext string) string {
	base := path.Base(r.Repository)
	if !r.Transport.remote() {
		base = path.Base(strings.ReplaceAll(r.Path, `\`, "/"))
		for _, known := range []string{".tar", ".sif", ".sqfs", ".sqsh", ".squashfs"} {
			base = strings.TrimSuffix(base, known)
		}
	}
	tag := r.Tag
	if r.Transport == TransportDockerDaemon {
		if base, tag, _ = strings.Cut(path.Base(r.Path), ":"); base == "sha256" {
			base, tag = "image", tag[:min(len(tag), 12)]
		}
	}
	if r.Transport == TransportDockerArchive && tag != "" {
		// The tag names a whole image here, which says more than the file does.
		base, tag, _ = strings.Cut(path.Base(tag), ":")
	}
	if hex := r.Digest.String(); tag == "" && validDigest(r.Digest) == nil {
		_, hex, _ = strings.Cut(hex, ":")
		tag = hex[:12]
	}
	if tag != "" {
		base += "." + tag
	}
	base = strings.TrimLeft(unsafeName().ReplaceAllString(base, "_"), ".")
	if base == "" || base == "_" {
		base = "image"
	}
	return base[:min(len(base), 200)] + ext // of ASCII alone by now
}

// unsafeName matches what a proposed file name should not have, however the image was tagged.
var unsafeName = pattern(`[^A-Za-z0-9._+-]+`)

// validDigest accepts what may name a blob: an algorithm of the OCI specification and the right number of hex digits. Paths
// and URLs are made of digests, so nothing else may pass.
func validDigest(d digest.Digest) error {
	if d == "" {
		return fmt.Errorf("digest is empty")
	}
	alg, _, ok := strings.Cut(string(d), ":")
	if ok && alg != string(digest.SHA256) && alg != string(digest.SHA512) {
		return fmt.Errorf("digest algorithm %q is not supported; only sha256 and sha512 are", clip(alg, 40))
	}
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", clip(string(d), 150), err)
	}
	return nil
}
