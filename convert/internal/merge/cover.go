package merge

import (
	"hash/maphash"
	"strings"

	"hpcimg/convert/internal/layer"
)

// Cover guesses what of a layer the layers above it hide. It takes all paths literally: see the package comment. The zero
// value hides nothing.
//
// Paths are remembered by a hash alone: an image may have millions, and one that is taken for another costs no more than any other
// wrong guess.
type Cover struct {
	seed   maphash.Seed
	names  map[uint64]coverage
	pinned map[string]struct{} // literal targets of hard links that no layer so far has
}

// coverage says what the layers above have at a path.
type coverage uint8

const (
	coverSelf  coverage = 1 << iota // hides the file of that path
	coverBelow                      // hides all that is in the directory of that path
)

func (c *Cover) key(path string) uint64 { return maphash.String(c.seed, path) }

func (c *Cover) at(path string) coverage { return c.names[c.key(path)] }

// Hides reports whether the contents of a regular file of the next layer will probably not be seen.
func (c *Cover) Hides(path string) bool {
	if len(c.names) == 0 {
		return false
	}
	if _, ok := c.pinned[path]; ok {
		return false
	}
	if c.at(path)&coverSelf != 0 {
		return true
	}
	for i := strings.LastIndexByte(path, '/'); i > 0; i = strings.LastIndexByte(path[:i], '/') {
		if c.at(path[:i])&coverBelow != 0 {
			return true
		}
	}
	return c.at(".")&coverBelow != 0
}

// Add adds the next layer, from the top.
func (c *Cover) Add(entries *layer.List) {
	if c.names == nil {
		c.seed = maphash.MakeSeed()
		c.names = make(map[uint64]coverage, entries.Len())
		c.pinned = make(map[string]struct{})
	}
	c.pin(entries)
	for _, e := range entries.All() {
		switch e.Kind {
		case layer.Dir:
			c.names[c.key(e.Path)] |= coverSelf
		case layer.Opaque:
			c.names[c.key(e.Path)] |= coverBelow
			continue // says nothing about the directory itself
		default:
			c.names[c.key(e.Path)] |= coverSelf | coverBelow
		}
		if !e.Kind.Whites() {
			c.parents(e.Path)
		}
	}
}

// parents notes that the directories of a path are directories.
func (c *Cover) parents(path string) {
	for i := strings.LastIndexByte(path, '/'); i > 0; i = strings.LastIndexByte(path[:i], '/') {
		key := c.key(path[:i])
		if c.names[key]&coverSelf != 0 {
			return
		}
		c.names[key] |= coverSelf
	}
}

// pin remembers the targets of hard links that the layer itself does not have, and forgets those that it has.
func (c *Cover) pin(entries *layer.List) {
	for _, e := range entries.All() {
		if e.Kind != layer.HardLink && !e.Kind.Whites() {
			delete(c.pinned, e.Path)
		}
	}
	missing := make(map[string]struct{})
	for _, e := range entries.All() {
		if e.Kind == layer.HardLink && !c.Hides(e.Path) {
			missing[e.Link] = struct{}{}
		}
	}
	if len(missing) == 0 {
		return
	}
	for _, e := range entries.All() {
		if e.Kind != layer.Dir && !e.Kind.Whites() {
			delete(missing, e.Path)
		}
	}
	for path := range missing {
		c.pinned[path] = struct{}{}
	}
}
