package cosign

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/image"
	"hpcimg/sign"
)

const (
	mediaTypeBundle    = "application/vnd.dev.sigstore.bundle.v0.3+json"
	mediaTypeBundleOld = "application/vnd.dev.sigstore.bundle+json;version=0.3"
	mediaTypeStatement = "application/vnd.in-toto+json"
	statementType      = "https://in-toto.io/Statement/v1"
	predicateSign      = "https://sigstore.dev/cosign/sign/v1"
	annotationContent  = "dev.sigstore.bundle.content"
	annotationPredic   = "dev.sigstore.bundle.predicateType"
	contentEnvelope    = "dsse-envelope"
	maxReferrers       = 1000
)

// bundle is the part of a Sigstore bundle that signatures by keys use.
type bundle struct {
	MediaType            string `json:"mediaType"`
	VerificationMaterial struct {
		PublicKey struct {
			Hint string `json:"hint"`
		} `json:"publicKey"`
	} `json:"verificationMaterial"`
	Envelope struct {
		Payload     []byte            `json:"payload"`
		PayloadType string            `json:"payloadType"`
		Signatures  []bundleSignature `json:"signatures"`
	} `json:"dsseEnvelope"`
}

type bundleSignature struct {
	Sig []byte `json:"sig"`
}

// statement is that of in-toto.
type statement struct {
	Type          string          `json:"_type"`
	Subject       []subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

type subject struct {
	Name        string            `json:"name,omitempty"`
	Digest      map[string]string `json:"digest"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func preAuthEncoding(payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(mediaTypeStatement), mediaTypeStatement, len(payload), payload)
}

func signBundle(ctx context.Context, r Registry, repo repository, d image.Descriptor, signer crypto.Signer, o *Options) error {
	b, err := newBundle(d.Digest, signer, o)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("cosign: %w", err)
	}
	m := image.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: mediaTypeBundle, Subject: &image.Descriptor{
		MediaType: d.MediaType, Digest: d.Digest, Size: d.Size,
	}}
	m.SchemaVersion = 2
	m.Annotations = map[string]string{annotationContent: contentEnvelope, annotationPredic: predicateSign}
	if !o.Time.IsZero() {
		m.Annotations[ocispec.AnnotationCreated] = o.Time.UTC().Format(time.RFC3339)
	}
	layer, err := r.PutBlob(ctx, repo.tag(tagOf(d.Digest)), mediaTypeBundle, raw)
	if err != nil {
		return err
	}
	m.Layers = []image.Descriptor{layer}
	if m.Config, err = r.PutBlob(ctx, repo.tag(tagOf(d.Digest)), ocispec.MediaTypeEmptyJSON, []byte("{}")); err != nil {
		return err
	}
	if raw, err = json.Marshal(m); err != nil {
		return fmt.Errorf("cosign: %w", err)
	}
	stored, err := r.PutManifest(ctx, repo.digest(digest.FromBytes(raw)), m.MediaType, raw)
	if err != nil {
		return err
	}
	if _, ok := r.(Lister); ok {
		return nil
	}
	stored.ArtifactType, stored.Annotations = mediaTypeBundle, m.Annotations
	return addReferrer(ctx, r, repo, d.Digest, stored)
}

func newBundle(d digest.Digest, signer crypto.Signer, o *Options) (*bundle, error) {
	s := statement{
		Type: statementType, PredicateType: predicateSign, Predicate: json.RawMessage("{}"),
		Subject: []subject{{Digest: map[string]string{d.Algorithm().String(): d.Encoded()}, Annotations: o.Annotations}},
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("cosign: %w", err)
	}
	sig, err := sign.SignMessage(signer, preAuthEncoding(text))
	if err != nil {
		return nil, err
	}
	id, err := sign.PublicKeyID(signer.Public())
	if err != nil {
		return nil, err
	}
	raw, err := hex.DecodeString(strings.TrimPrefix(id, "sha256:"))
	if err != nil {
		return nil, err
	}
	b := &bundle{MediaType: mediaTypeBundle}
	b.VerificationMaterial.PublicKey.Hint = base64.StdEncoding.EncodeToString(raw)
	b.Envelope.Payload, b.Envelope.PayloadType = text, mediaTypeStatement
	b.Envelope.Signatures = []bundleSignature{{sig}}
	return b, nil
}

// addReferrer lists a manifest in the index under the tag of its subject, where clients look whose registry does not list referrers by itself. One that
// does is not harmed.
func addReferrer(ctx context.Context, r Registry, repo repository, d digest.Digest, referrer image.Descriptor) error {
	index, err := referrers(ctx, r, repo, d)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(index.Manifests, func(m image.Descriptor) bool { return m.Digest == referrer.Digest }) {
		return nil
	}
	index.Manifests = append(index.Manifests, referrer)
	raw, err := json.Marshal(index)
	if err != nil {
		return fmt.Errorf("cosign: %w", err)
	}
	_, err = r.PutManifest(ctx, repo.tag(tagOf(d)), index.MediaType, raw)
	return err
}

func referrers(ctx context.Context, r Registry, repo repository, d digest.Digest) (*image.Index, error) {
	index := &image.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	_, raw, err := r.Manifest(ctx, repo.tag(tagOf(d)))
	if err != nil {
		return index, missing(err)
	}
	if err := json.Unmarshal(raw, index); err != nil {
		return nil, fmt.Errorf("referrers of %s: %w", d, err)
	}
	if index.MediaType == "" {
		index.MediaType = ocispec.MediaTypeImageIndex
	}
	if index.MediaType != ocispec.MediaTypeImageIndex {
		return nil, fmt.Errorf("referrers of %s: not an index but %q", d, index.MediaType)
	}
	if len(index.Manifests) > maxReferrers {
		return nil, &sign.LimitError{What: "number of referrers", Limit: maxReferrers}
	}
	return index, nil
}

// bundles lists what may be bundles about d.
func bundles(ctx context.Context, r Registry, repo repository, d digest.Digest) ([]image.Descriptor, error) {
	if l, ok := r.(Lister); ok {
		list, err := l.Referrers(ctx, repo.digest(d), "")
		if err != nil {
			return nil, missing(err)
		}
		if len(list) > maxReferrers {
			return nil, &sign.LimitError{What: "number of referrers", Limit: maxReferrers}
		}
		return list, nil
	}
	index, err := referrers(ctx, r, repo, d)
	if err != nil {
		return nil, err
	}
	return index.Manifests, nil
}

func verifyBundles(ctx context.Context, r Registry, repo repository, d digest.Digest, keys []crypto.PublicKey) ([]Signature, error) {
	list, err := bundles(ctx, r, repo, d)
	if err != nil {
		return nil, err
	}
	var found []Signature
	for _, m := range list {
		// Some registries say nothing of the type, or that of the configuration.
		if !slices.Contains([]string{mediaTypeBundle, "", ocispec.MediaTypeEmptyJSON}, m.ArtifactType) || m.MediaType != ocispec.MediaTypeImageManifest {
			continue
		}
		if len(found) == maxSignatures {
			return nil, &sign.LimitError{What: "number of signatures", Limit: maxSignatures}
		}
		data, err := bundleOf(ctx, r, repo, m, d)
		if err != nil {
			return nil, err
		}
		if data != nil {
			found = append(found, verifyBundle(data, d, keys))
		}
	}
	return found, nil
}

// bundleOf reads the bundle in a referrer, or nothing if it is something else.
func bundleOf(ctx context.Context, r Registry, repo repository, referrer image.Descriptor, d digest.Digest) ([]byte, error) {
	_, raw, err := r.Manifest(ctx, repo.digest(referrer.Digest))
	if err != nil {
		return nil, missing(err) // the index may be older than the clean-up
	}
	var m image.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("referrer %s: %w", referrer.Digest, err)
	}
	if m.Subject == nil || m.Subject.Digest != d || len(m.Layers) != 1 || m.Layers[0].MediaType != mediaTypeBundle || m.Layers[0].Size > maxPayload {
		return nil, nil
	}
	return r.Blob(ctx, repo.tag(tagOf(d)), m.Layers[0])
}

func verifyBundle(data []byte, d digest.Digest, keys []crypto.PublicKey) Signature {
	s := Signature{Format: FormatBundle}
	var b bundle
	if err := json.Unmarshal(data, &b); err != nil {
		s.Err = fmt.Errorf("bundle: %w", err)
		return s
	}
	switch {
	case b.MediaType != mediaTypeBundle && b.MediaType != mediaTypeBundleOld:
		s.Err = fmt.Errorf("bundle of type %q", b.MediaType)
		return s
	case b.Envelope.PayloadType != mediaTypeStatement || len(b.Envelope.Signatures) != 1:
		s.Err = errors.New("bundle without a statement and its one signature")
		return s
	}
	if s.Key = whose(keys, preAuthEncoding(b.Envelope.Payload), b.Envelope.Signatures[0].Sig); s.Key == nil {
		s.Err = ErrUnsigned
		return s
	}
	var st statement
	if err := json.Unmarshal(b.Envelope.Payload, &st); err != nil {
		s.Err = fmt.Errorf("statement: %w", err)
		return s
	}
	i := slices.IndexFunc(st.Subject, func(sub subject) bool { return sub.Digest[d.Algorithm().String()] == d.Encoded() })
	switch {
	case st.Type != statementType:
		s.Err = fmt.Errorf("statement of type %q", st.Type)
	case st.PredicateType != predicateSign:
		s.Err = fmt.Errorf("statement says %q", st.PredicateType) // an SBOM, say: that is no approval
	case i < 0:
		s.Err = errors.New("statement is about something else")
	default:
		s.Annotations = st.Subject[i].Annotations
	}
	return s
}
