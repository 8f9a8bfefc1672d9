package image

import (
	"fmt"

	"hpcimg/internal/distribution"
)

// Mirrors says where a repository is to be read, given what a reference calls it: the places are asked in order, and the repository
// itself only if it is among them. No places mean the repository itself. See registry.Mirrors for a file that people have.
type Mirrors func(host, repository string) ([]Place, error)

// Place is where a repository can be read. Whatever a place gives is verified by digest; a tag means what the first place says that
// has it.
type Place struct {
	Host       string // as in [Reference]
	Repository string
	PlainHTTP  bool // HTTP, if there is no HTTPS
	Use        PlaceUse
}

// PlaceUse is what a place is asked for.
type PlaceUse int

// Uses of places.
const (
	PlaceForAll     PlaceUse = iota
	PlaceForDigests          // manifests by digest, and blobs
	PlaceForTags             // what a tag names, and no blobs
)

// repository is what the client reads a reference's repository with.
func (o RegistryOptions) repository(client *distribution.Client, ref Reference) (*distribution.Mirrored, error) {
	places := []Place{{Host: ref.Host, Repository: ref.Repository}}
	if o.Mirrors != nil {
		found, err := o.Mirrors(ref.Host, ref.Repository)
		if err != nil {
			return nil, fmt.Errorf("mirrors of %s/%s: %w", ref.Host, ref.Repository, err)
		}
		if len(found) > 0 {
			places = found
		}
	}
	var sources []distribution.Source
	for _, p := range places {
		r := Reference{Transport: TransportDocker, Host: p.Host, Repository: p.Repository, Tag: "latest"}
		if err := r.validate(); err != nil {
			return nil, &ReferenceError{Reference: clip(p.Host+"/"+p.Repository, 300), Err: fmt.Errorf("place of %s/%s: %w", ref.Host, ref.Repository, err)}
		}
		sources = append(sources, distribution.Source{
			Place: distribution.Place{Host: p.Host, Repository: p.Repository, PlainHTTP: p.PlainHTTP},
			Tags:  p.Use != PlaceForDigests, Digests: p.Use != PlaceForTags,
		})
	}
	return client.Mirrored(sources)
}
