package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// selector looks for the image for one platform below a manifest or index.
type selector struct {
	source  Source
	options Options
	read    int        // documents read so far
	root    Descriptor // the first of them
	have    []Platform
	noted   map[string]bool // have, as text
}

// find returns the image for the wanted platform at or below d, or nil if there is none. Depth counts the indexes above d.
func (s *selector) find(ctx context.Context, d Descriptor, depth int) (*Image, error) {
	if depth > maxIndexDepth {
		return nil, documentError("index", "manifests", "indexes are nested deeper than %d", maxIndexDepth)
	}
	if d.Size > s.options.Limits.ManifestBytes {
		return nil, &LimitError{What: "manifest bytes", Limit: s.options.Limits.ManifestBytes}
	}
	if s.read++; s.read > maxDocuments {
		return nil, documentError("index", "manifests", "no image found in the first %d documents", maxDocuments)
	}
	raw, err := readBlob(ctx, s.source, d)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	doc, err := parseDocument(raw, d.MediaType, s.options.Limits)
	if err != nil {
		return nil, err
	}
	if genericType(d.MediaType) {
		d.MediaType = doc.mediaType
	}
	if depth == 0 {
		s.root = d
	}
	if doc.index != nil {
		return s.choose(ctx, doc.index.Manifests, depth)
	}
	img, err := newImage(ctx, d, raw, *doc.manifest, s.source, s.options)
	if err != nil {
		return nil, err
	}
	// The config knows better than the index. One that says nothing is taken at the index's word.
	if p := img.Platform(); p.OS != "" && p.Architecture != "" && platformRank(*s.options.Platform, p) == 0 {
		s.note(p)
		return nil, nil
	}
	return img, nil
}

// choose tries the entries of an index: images for the platform, best first, then nested indexes, then images whose entry does not
// say what they are for.
func (s *selector) choose(ctx context.Context, entries []Descriptor, depth int) (*Image, error) {
	type candidate struct {
		Descriptor
		rank int
	}
	var candidates []candidate
	for _, d := range entries {
		rank := 0
		switch {
		case !isManifest(d.MediaType) && !isIndex(d.MediaType):
			continue
		case d.Platform != nil && d.Platform.OS != "" && d.Platform.OS != "unknown":
			// BuildKit's attestations have the platform unknown/unknown.
			rank = 10 * platformRank(*s.options.Platform, *d.Platform)
			if rank == 0 {
				s.note(*d.Platform)
			}
		case d.Platform == nil && isIndex(d.MediaType):
			rank = 2
		case d.Platform == nil:
			rank = 1
		}
		if rank > 0 {
			candidates = append(candidates, candidate{d, rank})
		}
	}
	slices.SortStableFunc(candidates, func(a, b candidate) int { return cmp.Compare(b.rank, a.rank) })
	var missing error
	for _, c := range candidates {
		img, err := s.find(ctx, c.Descriptor, depth+1)
		switch {
		case err != nil && c.rank < 10 && (errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrNotExist)):
			// An artifact beside the images, or an entry of another platform in a partial copy.
			missing = errors.Join(missing, err)
		case err != nil || img != nil:
			return img, err
		}
	}
	if missing != nil && len(s.have) == 0 {
		return nil, missing
	}
	return nil, nil
}

// note remembers a platform that was not wanted, for the error.
func (s *selector) note(p Platform) {
	p = normalPlatform(p)
	if text := platformString(p); len(s.have) < 1000 && !s.noted[text] {
		if s.noted == nil {
			s.noted = map[string]bool{}
		}
		s.noted[text] = true
		s.have = append(s.have, p)
	}
}
