package cosign

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/image"
	"hpcimg/sign"
)

const (
	mediaTypePayload    = "application/vnd.dev.cosign.simplesigning.v1+json"
	annotationSignature = "dev.cosignproject.cosign/signature"
	payloadType         = "cosign container image signature"
	signatureSuffix     = ".sig"
)

// payload is what is signed in FormatTag.
type payload struct {
	Critical struct {
		Identity struct {
			DockerReference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			DockerManifestDigest string `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional map[string]any `json:"optional"`
}

func signTag(ctx context.Context, r Registry, repo repository, d image.Descriptor, signer crypto.Signer, o *Options) error {
	var p payload
	p.Critical.Identity.DockerReference = o.Identity
	p.Critical.Image.DockerManifestDigest = d.Digest.String()
	p.Critical.Type = payloadType
	for k, v := range o.Annotations {
		if p.Optional == nil {
			p.Optional = make(map[string]any)
		}
		p.Optional[k] = v
	}
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("cosign: %w", err)
	}
	sig, err := sign.SignMessage(signer, text)
	if err != nil {
		return err
	}
	m, err := tagManifest(ctx, r, repo, d.Digest)
	if err != nil {
		return err
	}
	layer, err := r.PutBlob(ctx, repo.tag(tagOf(d.Digest)), mediaTypePayload, text)
	if err != nil {
		return err
	}
	layer.Annotations = map[string]string{annotationSignature: base64.StdEncoding.EncodeToString(sig)}
	m.Layers = append(m.Layers, layer)
	if len(m.Layers) > maxSignatures {
		return fmt.Errorf("cosign: %s has %d signatures already", repo.digest(d.Digest), maxSignatures)
	}
	if m.Config, err = putConfig(ctx, r, repo, m.Layers); err != nil {
		return err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("cosign: %w", err)
	}
	_, err = r.PutManifest(ctx, repo.tag(tagOf(d.Digest)+signatureSuffix), m.MediaType, raw)
	return err
}

// putConfig stores the configuration of an image whose layers are payloads: registries want one.
func putConfig(ctx context.Context, r Registry, repo repository, layers []image.Descriptor) (image.Descriptor, error) {
	var c struct {
		Architecture string         `json:"architecture"`
		OS           string         `json:"os"`
		RootFS       ocispec.RootFS `json:"rootfs"`
		Config       struct{}       `json:"config"`
	}
	c.RootFS.Type = "layers"
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.Digest)
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return image.Descriptor{}, fmt.Errorf("cosign: %w", err)
	}
	return r.PutBlob(ctx, repo.tag("config"), ocispec.MediaTypeImageConfig, raw)
}

// tagManifest reads the image of signatures, or makes an empty one.
func tagManifest(ctx context.Context, r Registry, repo repository, d digest.Digest) (*image.Manifest, error) {
	m := &image.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	_, raw, err := r.Manifest(ctx, repo.tag(tagOf(d)+signatureSuffix))
	if err != nil {
		return m, missing(err)
	}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("cosign: signatures of %s: %w", d, err)
	}
	if m.MediaType == "" {
		m.MediaType = ocispec.MediaTypeImageManifest
	}
	return m, nil
}

func verifyTag(ctx context.Context, r Registry, repo repository, d digest.Digest, keys []crypto.PublicKey) ([]Signature, error) {
	m, err := tagManifest(ctx, r, repo, d)
	if err != nil {
		return nil, err
	}
	var found []Signature
	for _, layer := range m.Layers {
		if layer.MediaType != mediaTypePayload {
			continue
		}
		if len(found) == maxSignatures {
			return nil, &sign.LimitError{What: "number of signatures", Limit: maxSignatures}
		}
		s, err := verifyPayload(ctx, r, repo, layer, d, keys)
		if err != nil {
			return nil, err
		}
		found = append(found, s)
	}
	return found, nil
}

func verifyPayload(ctx context.Context, r Registry, repo repository, layer image.Descriptor, d digest.Digest, keys []crypto.PublicKey) (Signature, error) {
	s := Signature{Format: FormatTag}
	if layer.Size > maxPayload {
		s.Err = &sign.LimitError{What: "size of a signature", Limit: maxPayload}
		return s, nil
	}
	sig, err := base64.StdEncoding.DecodeString(layer.Annotations[annotationSignature])
	if err != nil {
		s.Err = errors.New("signature is not base64")
		return s, nil
	}
	text, err := r.Blob(ctx, repo.tag(tagOf(d)), layer)
	if err != nil {
		return s, err
	}
	if s.Key = whose(keys, text, sig); s.Key == nil {
		s.Err = ErrUnsigned
		return s, nil
	}
	var p payload
	switch err := json.Unmarshal(text, &p); {
	case err != nil:
		s.Err = fmt.Errorf("payload: %w", err)
	case p.Critical.Type != payloadType:
		s.Err = fmt.Errorf("payload of type %q", p.Critical.Type)
	case p.Critical.Image.DockerManifestDigest != d.String():
		s.Err = fmt.Errorf("payload is about %q", p.Critical.Image.DockerManifestDigest)
	}
	if s.Err != nil {
		return s, nil
	}
	s.Identity = p.Critical.Identity.DockerReference
	for k, v := range p.Optional {
		if text, ok := v.(string); ok {
			if s.Annotations == nil {
				s.Annotations = make(map[string]string)
			}
			s.Annotations[k] = text
		}
	}
	return s, nil
}
