package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker's image format, which is OCI's under other names.
const (
	mediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	mediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	mediaTypeDockerConfig   = "application/vnd.docker.container.image.v1+json"
	mediaTypeDockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
	mediaTypeDockerForeign  = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	mediaTypeDockerSchema1  = "application/vnd.docker.distribution.manifest.v1+json"
	mediaTypeDockerSigned1  = "application/vnd.docker.distribution.manifest.v1+prettyjws"

	mediaTypeSIFConfig = "application/vnd.sylabs.sif.config.v1+json"
	mediaTypeSIFLayer  = "application/vnd.sylabs.sif.layer.v1.sif"
)

// acceptManifests is what we ask registries for. Schema 1 is not in it: a registry that has only that says so.
func acceptManifests() []string {
	return []string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, mediaTypeDockerList, mediaTypeDockerManifest}
}

func isManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == mediaTypeDockerManifest
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == mediaTypeDockerList
}

func isConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == mediaTypeDockerConfig
}

// genericType reports whether a server said nothing with mediaType.
func genericType(mediaType string) bool {
	switch mediaType {
	case "", "application/json", "application/octet-stream", "text/plain":
		return true
	}
	return false
}

// documentFields are the names in manifests, indexes and descriptors.
func documentFields() []string {
	return []string{
		"schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations",
		"digest", "size", "urls", "data", "platform", "architecture", "os", "os.version", "os.features", "variant",
	}
}

// document is a manifest or an index: exactly one of the two is set.
type document struct {
	mediaType string
	manifest  *Manifest
	index     *Index
}

// parseDocument decodes and validates what a descriptor of the given media type leads to. The media type may be generic; the
// document then speaks for itself.
func parseDocument(raw []byte, mediaType string, limits Limits) (document, error) {
	var head struct {
		SchemaVersion json.Number     `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		Manifests     json.RawMessage `json:"manifests"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := decode("manifest", raw, documentFields(), &head); err != nil {
		return document{}, err
	}
	if head.SchemaVersion == "1" || head.FSLayers != nil || mediaType == mediaTypeDockerSchema1 || mediaType == mediaTypeDockerSigned1 {
		return document{}, documentError("manifest", "schemaVersion",
			"Docker image manifest version 2, schema 1 is %w: it has no digests of uncompressed layers; "+
				"push the image again with a current tool", errors.ErrUnsupported)
	}
	if head.SchemaVersion != "2" {
		return document{}, documentError("manifest", "schemaVersion", "is %q, want 2", head.SchemaVersion)
	}
	hasLayers, hasManifests := present(head.Layers), present(head.Manifests)
	// CVE-2021-41190: a document that is a manifest to one reader and an index to another.
	if hasManifests && (hasLayers || present(head.Config)) {
		return document{}, documentError("manifest", "manifests", "stands beside layers or config: one document cannot be both image and index")
	}
	kind, err := documentType(mediaType, head.MediaType, hasManifests)
	if err != nil {
		return document{}, err
	}
	switch {
	case isIndex(kind):
		return parseIndex(raw, head.Manifests, kind, limits, !hasLayers && !present(head.Config))
	case isManifest(kind):
		return parseManifest(raw, head.Layers, kind, limits, !hasManifests)
	}
	return document{}, documentError("manifest", "mediaType", "%q is %w: want an OCI or Docker image manifest or index",
		clip(kind, 100), errors.ErrUnsupported)
}

func present(m json.RawMessage) bool { return m != nil && string(m) != "null" }

// documentType reconciles what the outside (descriptor or server) and the document say that it is.
func documentType(outside, inside string, hasManifests bool) (string, error) {
	switch {
	case len(inside) > maxMediaType:
		return "", documentError("manifest", "mediaType", "is longer than %d bytes", maxMediaType)
	case !genericType(outside) && inside != "" && outside != inside:
		return "", documentError("manifest", "mediaType", "is %q, but it was announced as %q", clip(inside, 100), clip(outside, 100))
	case inside != "":
		return inside, nil
	case !genericType(outside):
		return outside, nil
	case hasManifests:
		return ocispec.MediaTypeImageIndex, nil
	}
	return ocispec.MediaTypeImageManifest, nil
}

func parseManifest(raw []byte, layers json.RawMessage, kind string, limits Limits, consistent bool) (document, error) {
	if !consistent {
		return document{}, documentError("manifest", "manifests", "stands in an image manifest")
	}
	var m Manifest
	if err := unmarshalWithin(raw, "layers", layers, limits.Layers, &m); err != nil {
		return document{}, err
	}
	if m.Config.MediaType == "" && m.Config.Digest == "" {
		return document{}, documentError("manifest", "config", "is missing")
	}
	if err := validDescriptor("manifest", "config", m.Config); err != nil {
		return document{}, err
	}
	var total int64
	for i, l := range m.Layers {
		field := fmt.Sprintf("layers[%d]", i)
		if err := validDescriptor("manifest", field, l); err != nil {
			return document{}, err
		}
		if total += l.Size; total < 0 {
			return document{}, documentError("manifest", field+".size", "the sizes of the layers overflow")
		}
	}
	if m.Subject != nil {
		if err := validDescriptor("manifest", "subject", *m.Subject); err != nil {
			return document{}, err
		}
	}
	return document{mediaType: kind, manifest: &m}, nil
}

func parseIndex(raw []byte, manifests json.RawMessage, kind string, limits Limits, consistent bool) (document, error) {
	if !consistent {
		return document{}, documentError("index", "layers", "stands in an image index")
	}
	var x Index
	if err := unmarshalWithin(raw, "manifests", manifests, limits.Manifests, &x); err != nil {
		return document{}, err
	}
	for i, d := range x.Manifests {
		if err := validDescriptor("index", fmt.Sprintf("manifests[%d]", i), d); err != nil {
			return document{}, err
		}
	}
	if x.Subject != nil {
		if err := validDescriptor("index", "subject", *x.Subject); err != nil {
			return document{}, err
		}
	}
	return document{mediaType: kind, index: &x}, nil
}

// unmarshalWithin decodes raw into v after counting the elements of one array: a descriptor is larger in memory than "{}," is
// in a document.
func unmarshalWithin(raw []byte, name string, array json.RawMessage, limit int, v any) error {
	var elements []counted
	if present(array) {
		if err := json.Unmarshal(array, &elements); err != nil {
			return documentError("manifest", name, "is not a list")
		}
	}
	if len(elements) > limit {
		return &LimitError{What: name, Limit: int64(limit)}
	}
	if err := json.Unmarshal(raw, v); err != nil {
		if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return documentError("manifest", te.Field, "is a JSON %s", te.Value)
		}
		return documentError("manifest", "", "%w", err)
	}
	return nil
}

// counted is any JSON value, of which nothing is kept.
type counted struct{}

func (*counted) UnmarshalJSON([]byte) error { return nil }

// validDescriptor checks everything about a descriptor that later sizes a buffer, names a path or goes into a URL.
func validDescriptor(document, field string, d Descriptor) error {
	if err := validDigest(d.Digest); err != nil {
		return documentError(document, field+".digest", "%w", err)
	}
	switch {
	case d.Size < 0:
		return documentError(document, field+".size", "%d is negative", d.Size)
	case d.MediaType == "":
		return documentError(document, field+".mediaType", "is empty")
	case !validMediaType(d.MediaType):
		return documentError(document, field+".mediaType", "%q is not a media type", clip(d.MediaType, 80))
	case len(d.URLs) > maxURLs:
		return documentError(document, field+".urls", "has more than %d elements", maxURLs)
	case d.Data == nil:
		return nil
	case len(d.Data) > maxData:
		return documentError(document, field+".data", "is larger than %d bytes", maxData)
	case int64(len(d.Data)) != d.Size || d.Digest.Algorithm().FromBytes(d.Data) != d.Digest:
		return documentError(document, field+".data", "%w", &DigestError{
			Descriptor: bare(d), Got: d.Digest.Algorithm().FromBytes(d.Data), GotSize: int64(len(d.Data)),
		})
	}
	return nil
}

// bare is d without what may be large.
func bare(d Descriptor) Descriptor {
	return Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// validMediaType accepts type/subtype of RFC 6838; parameters do not occur in descriptors.
func validMediaType(s string) bool {
	main, sub, ok := strings.Cut(s, "/")
	return ok && main != "" && sub != "" && len(s) <= maxMediaType && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '/' && (r > 126 || r < 33 || strings.ContainsRune(`"(),:;<=>?@[\]{}`, r))
	}) && !strings.Contains(sub, "/")
}

// newManifest is the manifest of an image with the given config and layers.
func newManifest(config Descriptor, layers []Descriptor) Manifest {
	return Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    config,
		Layers:    layers,
	}
}

// describe makes the descriptor of raw.
func describe(mediaType string, raw []byte) Descriptor {
	return Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
}
