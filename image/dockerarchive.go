package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerEntry is one image in the manifest.json of a Docker archive.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// openDockerArchive opens an image in what docker save and podman save write. Such an archive names files, not digests: the
// manifest is made up here from the config, whose diff_ids are the digests of uncompressed layers.
//
// An archive without Docker's list of images may be an OCI layout all the same.
func openDockerArchive(ctx context.Context, files *archiveFiles, ref Reference, o Options) (*Image, error) {
	raw, err := readFile(files, "manifest.json", "manifest.json", o.Limits.ManifestBytes)
	if errors.Is(err, fs.ErrNotExist) {
		if _, ok := files.members[ocispec.ImageLayoutFile]; ok {
			return openLayout(ctx, files, ref, o)
		}
		return nil, fmt.Errorf("%s is not a Docker archive: %w", ref.Path, err)
	}
	if err != nil {
		return nil, err
	}
	entry, err := findDockerEntry(raw, ref, o.Limits)
	if err != nil {
		return nil, err
	}
	rawConfig, err := readFile(files, entry.Config, "config", o.Limits.ConfigBytes)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	config, err := parseConfig(rawConfig, len(entry.Layers))
	if err != nil {
		return nil, err
	}
	source := &dockerSource{files: files, rawConfig: rawConfig, paths: map[digest.Digest]string{}}
	var layers []Descriptor
	for i, name := range entry.Layers {
		d, err := dockerLayer(ctx, files, name, config.RootFS.DiffIDs[i])
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		source.paths[d.Digest] = name
		layers = append(layers, d)
	}
	manifest := newManifest(describe(mediaTypeDockerConfig, rawConfig), layers)
	rawManifest, err := marshalDocument(manifest)
	if err != nil {
		return nil, err
	}
	root := describe(ocispec.MediaTypeImageManifest, rawManifest)
	source.manifest, source.rawManifest = root.Digest, rawManifest
	return load(ctx, root, source, o)
}

// findDockerEntry chooses an image of the archive.
func findDockerEntry(raw []byte, ref Reference, limits Limits) (*dockerEntry, error) {
	// checkJSON is for objects; the list is checked element by element.
	var elements []json.RawMessage
	if err := json.Unmarshal(raw, &elements); err != nil {
		return nil, documentError("manifest.json", "", "%w", err)
	}
	if len(elements) > limits.Manifests {
		return nil, &LimitError{What: "manifests", Limit: int64(limits.Manifests)}
	}
	tags := map[string]bool{}
	var found []*dockerEntry
	for i, element := range elements {
		var e dockerEntry
		if err := decode("manifest.json", element, []string{"Config", "RepoTags", "Layers"}, &e); err != nil {
			return nil, fmt.Errorf("image %d: %w", i, err)
		}
		match := ref.Tag == ""
		for _, t := range e.RepoTags {
			tags[t] = true
			match = match || sameDockerName(t, ref.Tag)
		}
		if !match {
			continue
		}
		if e.Config == "" {
			return nil, documentError("manifest.json", fmt.Sprintf("[%d].Config", i), "is empty")
		}
		if len(e.Layers) > limits.Layers {
			return nil, &LimitError{What: "layers", Limit: int64(limits.Layers)}
		}
		found = append(found, &e)
	}
	switch {
	case len(found) == 0:
		return nil, fmt.Errorf("no image %q in %s%s: %w", clip(ref.Tag, 80), ref.Path, listTags(tags), fs.ErrNotExist)
	case len(found) > 1:
		return nil, ambiguous(ref, tags)
	}
	return found[0], nil
}

// sameDockerName compares names of images however short they are written.
func sameDockerName(a, b string) bool {
	if a == b {
		return true
	}
	ra, errA := parseRemote(TransportDocker, a)
	rb, errB := parseRemote(TransportDocker, b)
	return errA == nil && errB == nil && ra == rb
}

// digestName is a file that its writer named after its contents.
var digestName = pattern(`^blobs/sha256/([0-9a-f]{64})$`)

// dockerLayer describes a layer file. Most are uncompressed, so that the diffID is the digest. Of compressed ones the digest is in
// the name, as a claim that is verified like any other, or has to be computed.
func dockerLayer(ctx context.Context, f files, name string, diffID digest.Digest) (Descriptor, error) {
	rc, size, err := f.open(name)
	if err != nil {
		return Descriptor{}, err
	}
	defer rc.Close()
	var head [4]byte
	n, err := io.ReadFull(rc, head[:])
	if err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
		return Descriptor{}, err
	}
	d := Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: diffID, Size: size}
	switch magic := string(head[:n]); {
	case strings.HasPrefix(magic, "\x1f\x8b"):
		d.MediaType = ocispec.MediaTypeImageLayerGzip
	case magic == "\x28\xb5\x2f\xfd":
		d.MediaType = ocispec.MediaTypeImageLayerZstd
	default:
		return d, nil
	}
	if m := digestName().FindStringSubmatch(name); m != nil {
		d.Digest = digest.NewDigestFromEncoded(digest.SHA256, m[1])
		return d, nil
	}
	h := digest.SHA256.Hash()
	h.Write(head[:n])
	if _, err := io.Copy(h, &contextReader{ctx: ctx, r: rc}); err != nil {
		return Descriptor{}, err
	}
	d.Digest = digest.NewDigest(digest.SHA256, h)
	return d, nil
}

// contextReader makes a long read end with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// dockerSource finds by digest what the archive has by name.
type dockerSource struct {
	files       files
	paths       map[digest.Digest]string
	rawConfig   []byte
	manifest    digest.Digest
	rawManifest []byte
}

func (s *dockerSource) Open(_ context.Context, d Descriptor) (io.ReadCloser, error) {
	switch {
	case d.Digest == s.manifest:
		return bytesReader(s.rawManifest), nil
	case d.MediaType == mediaTypeDockerConfig:
		return bytesReader(s.rawConfig), nil
	}
	name, ok := s.paths[d.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s is not in %s: %w", d.Digest, s.files.describe(), fs.ErrNotExist)
	}
	rc, _, err := s.files.open(name)
	return rc, err
}
