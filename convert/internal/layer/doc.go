// Package layer reads layers: compressed tar streams, and directories of the
// host in their place.
//
// [Open] turns a blob into a tar stream in three steps that run concurrently,
// each in a goroutine of its own with a few fixed buffers between them: the blob
// is read (and verified by whoever supplies it), it is inflated, and the result
// is hashed. [NewTar] parses the stream into entries:
//
//	stream, err := layer.Open(blob, mediaType, diffID)
//	t := layer.NewTar(stream, limits)
//	for {
//		e, err := t.Next()
//		if err == io.EOF {
//			break // the stream is verified
//		}
//		// t reads the contents of e
//	}
//
// An [Entry] is what a layer says about a path: a file to be put there, or, for
// whiteouts, that something below is to vanish. What becomes of the entries of
// several layers is the business of package merge.
//
// # Compression
//
// The first bytes decide: gzip, zstd, else plain tar. A media type that says
// otherwise is reported, not believed, for registries hold many such layers and the
// digests bind the bytes either way. Gzip streams may have any number of
// members. Bytes behind the compressed stream are an error.
//
// # Untrusted input
//
// Paths are cleaned lexically: what climbs above the root stays at the root, as
// in a chroot, so ".." and absolute paths are harmless. Paths, components, link
// targets, extended attributes, ids, device numbers, the number of entries and
// the number of bytes, stored and declared, are bounded before they are used.
// The stream is read to its end, past the end-of-archive marker, before Next
// returns [io.EOF]; a diffID that differs is a *image.DigestError.
//
// # Errors
//
// What is wrong with one entry is an [*EntryError]; Err is or wraps
// [ErrUnsafePath], [ErrWhiteout], a [*LimitError], [errors.ErrUnsupported] or
// [ErrFormat]. A stream that is no tar or does not inflate is [ErrFormat].
package layer
