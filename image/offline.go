package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/opencontainers/go-digest"
)

// ErrOffline is what every *OfflineError is.
var ErrOffline = errors.New("offline")

// OfflineError is something that is not in the cache and, because of [Options].Offline, has not been asked for. It is ErrOffline and
// fs.ErrNotExist.
type OfflineError struct {
	What string // a reference, or the digest of a blob
}

func (e *OfflineError) Error() string {
	return fmt.Sprintf("%s is not in the cache, and offline no registry is asked: pull it once with the same cache", e.What)
}

// Unwrap returns ErrOffline and fs.ErrNotExist.
func (e *OfflineError) Unwrap() []error { return []error{ErrOffline, fs.ErrNotExist} }

// DocumentCache keeps small documents by key. A *cache.Cache of package image/cache is one.
type DocumentCache interface {
	// Document returns what was put under a key last, or fs.ErrNotExist.
	Document(ctx context.Context, key string) ([]byte, error)
	PutDocument(ctx context.Context, key string, document []byte) error
}

// refreshAfter is how old a record of a tag may become before it is written again, to say that it still holds.
const refreshAfter = time.Minute

// tagRecord is what is remembered of a tag.
type tagRecord struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	Time      int64         `json:"time"` // when a registry has said so, in seconds since 1970
}

// memory is what is remembered of a repository. Trouble with it is nobody's: what it does not know is asked again.
type memory struct {
	documents DocumentCache // or nil
	ref       Reference
}

func documentKey(d digest.Digest) string { return d.Encoded() + "-" + d.Algorithm().String() }

// tagKey has the host, so that no registry can say what another one's tags are.
func (m *memory) tagKey() string {
	h := sha256.Sum256([]byte(m.ref.Host + "/" + m.ref.Repository + ":" + m.ref.Tag))
	return hex.EncodeToString(h[:]) + "-tag"
}

// document returns a manifest or index, or nil. Who asked compares it with its digest.
func (m *memory) document(ctx context.Context, d digest.Digest, limit int64) []byte {
	if m.documents == nil || !cachable(d) {
		return nil
	}
	raw, err := m.documents.Document(ctx, documentKey(d))
	if err != nil || int64(len(raw)) > limit || d.Algorithm().FromBytes(raw) != d {
		return nil
	}
	return raw
}

// keep remembers a document.
func (m *memory) keep(ctx context.Context, d digest.Digest, raw []byte) {
	if m.documents != nil && cachable(d) {
		_ = m.documents.PutDocument(ctx, documentKey(d), raw)
	}
}

// root returns what the reference leads to, as far as that is remembered, and since when.
func (m *memory) root(ctx context.Context, limits Limits) (Descriptor, []byte, time.Time, bool) {
	if m.documents == nil {
		return Descriptor{}, nil, time.Time{}, false
	}
	r := tagRecord{Digest: m.ref.Digest}
	var when time.Time
	if r.Digest == "" {
		var ok bool
		if r, ok = m.tag(ctx); !ok {
			return Descriptor{}, nil, when, false
		}
		when = time.Unix(r.Time, 0)
	}
	raw := m.document(ctx, r.Digest, limits.ManifestBytes)
	if raw == nil {
		return Descriptor{}, nil, when, false
	}
	return Descriptor{MediaType: rootType(r.MediaType), Digest: r.Digest, Size: int64(len(raw))}, raw, when, true
}

func (m *memory) tag(ctx context.Context) (tagRecord, bool) {
	raw, err := m.documents.Document(ctx, m.tagKey())
	if err != nil {
		return tagRecord{}, false
	}
	var r tagRecord
	if json.Unmarshal(raw, &r) != nil || validDigest(r.Digest) != nil {
		return tagRecord{}, false
	}
	return r, true
}

// learn remembers what a registry has just said.
func (m *memory) learn(ctx context.Context, root Descriptor, raw []byte) {
	if m.documents == nil {
		return
	}
	m.keep(ctx, root.Digest, raw)
	if m.ref.Digest != "" {
		return
	}
	now := time.Now()
	if old, ok := m.tag(ctx); ok && old.Digest == root.Digest && now.Sub(time.Unix(old.Time, 0)).Abs() < refreshAfter {
		return
	}
	record, err := json.Marshal(tagRecord{Digest: root.Digest, MediaType: root.MediaType, Size: root.Size, Time: now.Unix()})
	if err == nil {
		_ = m.documents.PutDocument(ctx, m.tagKey(), record)
	}
}
