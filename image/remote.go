package image

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hpcimg/internal/distribution"
)

// openRemote opens an image in a registry.
func openRemote(ctx context.Context, ref Reference, o Options) (*Image, error) {
	var img *Image
	err := withRemote(ctx, ref, o, func(root Descriptor, source, with Source, remembered time.Time) (err error) {
		if img, err = load(ctx, root, with, o); err == nil {
			img.source, img.remembered = source, remembered
		}
		return err
	})
	return img, err
}

func openRemoteArtifact(ctx context.Context, ref Reference, o Options) (*Artifact, error) {
	var a *Artifact
	err := withRemote(ctx, ref, o, func(root Descriptor, source, with Source, remembered time.Time) (err error) {
		if a, err = loadArtifact(ctx, root, with, o); err == nil {
			a.source, a.remembered = source, remembered
		}
		return err
	})
	return a, err
}

// withRemote reads the document that a reference names and has load read on from there: from a source that has the document, which
// is one request less, as it has just been read and hashed.
func withRemote(ctx context.Context, ref Reference, o Options, load func(root Descriptor, source, with Source, remembered time.Time) error) error {
	client := o.Registry.client(o.Logger)
	repo, err := o.Registry.repository(client, ref)
	if err != nil {
		return err
	}
	m := &memory{documents: o.Documents, ref: ref}
	root, raw, when, known := Descriptor{}, []byte(nil), time.Time{}, false
	if o.Offline || ref.Digest != "" {
		root, raw, when, known = m.root(ctx, o.Limits)
	}
	switch {
	case known:
		o.Logger.DebugContext(ctx, "root remembered", "digest", root.Digest)
	case o.Offline:
		return &OfflineError{What: ref.String()}
	default:
		if root, raw, err = fetchRoot(ctx, repo, ref, o.Limits); err == nil {
			m.learn(ctx, root, raw)
		}
	}
	if err == nil {
		source := &remoteSource{repo: repo, cache: o.Cache, memory: m, offline: o.Offline}
		err = load(root, source, &overlaySource{Source: source, digest: root.Digest, raw: raw}, when)
	}
	if err != nil {
		client.CloseIdle()
		return transportError(err)
	}
	return nil
}

// fetchRoot reads the document that a reference names and makes the descriptor that nobody has given us for it.
func fetchRoot(ctx context.Context, repo *distribution.Mirrored, ref Reference, limits Limits) (Descriptor, []byte, error) {
	name := ref.Tag
	if ref.Digest != "" {
		name = ref.Digest.String()
	}
	var root Descriptor
	doc, err := repo.Manifest(ctx, name, acceptManifests(), limits.ManifestBytes, func(doc *distribution.Document) (err error) {
		root, err = checkRoot(doc, ref.Digest)
		return err
	})
	if errors.Is(err, distribution.ErrTooLong) {
		return Descriptor{}, nil, &LimitError{What: "manifest bytes", Limit: limits.ManifestBytes}
	}
	if err != nil {
		return Descriptor{}, nil, err
	}
	return root, doc.Raw, nil
}

// checkRoot compares a document with the digest that was asked for or, if it was a tag, with that which the registry claims.
func checkRoot(doc *distribution.Document, want digest.Digest) (Descriptor, error) {
	if want == "" && doc.Digest != "" {
		if err := validDigest(doc.Digest); err != nil {
			return Descriptor{}, documentError("manifest", "Docker-Content-Digest", "%w", err)
		}
		want = doc.Digest
	}
	root := describe(rootType(doc.MediaType), doc.Raw)
	if want == "" {
		return root, nil
	}
	root.Digest = want.Algorithm().FromBytes(doc.Raw)
	if root.Digest != want {
		return Descriptor{}, &DigestError{
			Descriptor: Descriptor{Digest: want, Size: root.Size}, Got: root.Digest, GotSize: root.Size,
		}
	}
	return root, nil
}

// rootType is the media type for a descriptor made from an answer: some servers say nothing useful.
func rootType(contentType string) string {
	if contentType == "" {
		return "application/octet-stream"
	}
	return contentType
}

// remoteSource reads from one repository.
type remoteSource struct {
	repo  *distribution.Mirrored
	cache BlobCache // or nil

	memory  *memory
	offline bool
}

// maxRemoteManifest bounds manifests that nobody else has bounded: those that a caller opens as a blob.
const maxRemoteManifest = 64 << 20

func (s *remoteSource) Open(ctx context.Context, d Descriptor) (io.ReadCloser, error) {
	if !isManifest(d.MediaType) && !isIndex(d.MediaType) {
		return s.openBlob(ctx, d)
	}
	if d.Size > maxRemoteManifest {
		return nil, &LimitError{What: "manifest bytes", Limit: maxRemoteManifest}
	}
	if raw := s.memory.document(ctx, d.Digest, d.Size); raw != nil {
		return bytesReader(raw), nil
	}
	if s.offline {
		return nil, &OfflineError{What: d.Digest.String()}
	}
	doc, err := s.repo.Manifest(ctx, d.Digest.String(), acceptManifests(), d.Size, func(doc *distribution.Document) error {
		if got := d.Digest.Algorithm().FromBytes(doc.Raw); got != d.Digest {
			return &DigestError{Descriptor: bare(d), Got: got, GotSize: int64(len(doc.Raw))}
		}
		return nil
	})
	if errors.Is(err, distribution.ErrTooLong) {
		return nil, &DigestError{Descriptor: bare(d), GotSize: d.Size + 1}
	}
	if err != nil {
		return nil, err
	}
	if !genericType(doc.MediaType) && doc.MediaType != d.MediaType {
		return nil, documentError("manifest", "Content-Type", "is %q for a descriptor of type %q", clip(doc.MediaType, 100), d.MediaType)
	}
	s.memory.keep(ctx, d.Digest, doc.Raw)
	return bytesReader(doc.Raw), nil
}

// overlaySource has one document at hand and leaves the rest to another source.
type overlaySource struct {
	Source
	digest digest.Digest
	raw    []byte
}

func (s *overlaySource) Open(ctx context.Context, d Descriptor) (io.ReadCloser, error) {
	if d.Digest == s.digest {
		return bytesReader(s.raw), nil
	}
	return s.Source.Open(ctx, d)
}

func (s *remoteSource) openBlob(ctx context.Context, d Descriptor) (io.ReadCloser, error) {
	blobFrom := func(ctx context.Context, off int64) (io.ReadCloser, error) {
		if s.offline {
			return nil, &OfflineError{What: d.Digest.String()}
		}
		return s.repo.BlobFrom(ctx, d.Digest, d.Size, off)
	}
	if s.cache == nil || !cachable(d.Digest) {
		return blobFrom(ctx, 0)
	}
	key := d.Digest.Algorithm().String() + "-" + d.Digest.Encoded()
	rc, err := s.cache.OpenBlob(ctx, key, d.Size, blobFrom)
	if err != nil {
		return nil, err
	}
	return &cachedBlob{ReadCloser: rc, want: bare(d)}, nil
}

// cachable reports whether the cache can check a digest.
func cachable(d digest.Digest) bool {
	return d.Algorithm() == digest.SHA256 || d.Algorithm() == digest.SHA512
}

// cachedBlob is a blob that the cache has verified when it ends.
type cachedBlob struct {
	io.ReadCloser
	want Descriptor
}

func (b *cachedBlob) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = b.explain(err)
	}
	return n, err
}

func (b *cachedBlob) explain(err error) error {
	mismatch, ok := errors.AsType[interface {
		error
		Mismatch() string
	}](err)
	if !ok {
		return transportError(err)
	}
	algorithm, encoded, _ := strings.Cut(mismatch.Mismatch(), "-")
	return &DigestError{Descriptor: b.want, Got: digest.NewDigestFromEncoded(digest.Algorithm(algorithm), encoded), GotSize: b.want.Size}
}
