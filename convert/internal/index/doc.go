// Package index stores what is known of layers and segments, so that neither
// has to be made twice.
//
// A [Layer] is the layer index of DESIGN's data flow: the entries of a layer, a
// pure function of its diffID. A [Segment] says which files of a layer a pack
// has and where their contents are in it, a pure function of the layer, of the
// set of its files that can be seen, and of how they are compressed.
//
// [LayerKey], [PackKey] and [SegmentKey] name them. Whatever can change what is
// made enters the key: the version of the format here, the diffID, the
// compressor, its level and the fingerprint of its output, the block size and
// the set of visible files.
//
// # Format
//
// A header (magic, version, size), then zstd over a sequence of unsigned varints
// and byte strings. Paths are stored as what differs from the path before, times
// and places as differences. Equal values are stored as equal bytes.
//
// # Untrusted input
//
// What is decoded may come from a file that somebody else has written. Sizes are
// bounded before they are allocated, entries checked like those of a tar
// ([layer.Entry.Check]) and positions against the pack; errors are ErrFormat.
package index
