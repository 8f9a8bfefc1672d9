package estargz

import (
	"archive/tar"
	"fmt"
	"strings"

	"hpcimg/convert/internal/layer"
)

const (
	defaultEntries = 5_000_000
	defaultBytes   = 1 << 40
	defaultText    = 1 << 30
	implicitText   = 64 // what a directory without an entry is taken to keep in memory
	maxLinkChain   = 64
)

// names knows the paths of a layer, and sees to it that what an extracted tar stream has at each of them is what the TOC says.
type names struct {
	byPath map[string]node
	limits *Limits
	count  int
	text   int64
}

type node struct {
	seq    int // number of the entry, -1 if there is none
	dir    bool
	parent bool  // has had entries below it
	linked bool  // has had a hard link to it
	own    bool  // of the format, not of the layer
	depth  uint8 // of hard links
}

func newNames(limits *Limits) *names {
	n := &names{byPath: make(map[string]node), limits: limits}
	for _, p := range []string{prefetchLandmark, noPrefetchLandmark, tocName} {
		n.byPath[p] = node{seq: -1, own: true}
	}
	return n
}

// add takes note of the next entry. replaced is the number of the entry whose place it takes, or -1. Entries are numbered
// from 0.
func (n *names) add(h *header) (replaced int, err error) {
	if int64(n.count) >= n.limits.Entries {
		return -1, &layer.LimitError{What: "entries", Limit: n.limits.Entries}
	}
	if err := n.addText(h.text()); err != nil {
		return -1, err
	}
	e := node{seq: n.count, dir: h.tar.Typeflag == tar.TypeDir}
	if h.tar.Typeflag == tar.TypeLink {
		if e.depth, err = n.link(h); err != nil {
			return -1, err
		}
	}
	if err := n.parents(h.path); err != nil {
		return -1, err
	}
	replaced = -1
	if old, ok := n.byPath[h.path]; ok {
		switch {
		case old.linked:
			return -1, unsupported("it replaces what a hard link is to")
		case old.parent && !e.dir:
			return -1, unsupported("it replaces a directory that is not empty")
		}
		e.parent = old.parent
		replaced = old.seq
	}
	n.byPath[h.path] = e
	n.count++
	return replaced, nil
}

func (n *names) addText(size int64) error {
	if n.text += size; n.text > n.limits.Text {
		return &layer.LimitError{What: "bytes in names and extended attributes", Limit: n.limits.Text}
	}
	return nil
}

// link takes note of the hard link h.
func (n *names) link(h *header) (depth uint8, err error) {
	target, ok := n.byPath[h.link]
	switch {
	case h.link == h.path:
		return 0, fmt.Errorf("%w: to itself", layer.ErrHardLink)
	case !ok:
		return 0, unsupported("a hard link to %.200q, which is not in the layer before it", h.link)
	case target.dir || target.own:
		return 0, fmt.Errorf("%w: to %.200q, which is not a file of the layer", layer.ErrHardLink, h.link)
	case target.depth >= maxLinkChain:
		return 0, &layer.LimitError{What: "hard links in a chain", Limit: maxLinkChain}
	}
	target.linked = true
	n.byPath[h.link] = target
	return target.depth + 1, nil
}

// parents sees to it that p is in directories.
func (n *names) parents(p string) error {
	for p != "" {
		p = parent(p)
		e, ok := n.byPath[p]
		if ok && !e.dir {
			return unsupported("it is below %.200q, which is not a directory in this layer", p)
		}
		if ok && e.parent {
			return nil // and so have all above
		}
		if !ok {
			if err := n.addText(implicitText); err != nil {
				return err
			}
			e = node{seq: -1, dir: true}
		}
		e.parent = true
		n.byPath[p] = e
	}
	return nil
}

// parent returns the directory that p is in.
func parent(p string) string { return p[:max(0, strings.LastIndexByte(p, '/'))] }
