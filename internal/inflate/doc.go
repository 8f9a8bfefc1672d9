// Package inflate decodes DEFLATE (RFC 1951) at more than twice the speed of other pure Go decoders: as zlib streams
// (RFC 1950) held in memory, which is what a squashfs block is, and as gzip streams (RFC 1952) of any length, which is
// what a layer is.
//
// A block, whose largest size is known:
//
//	var d inflate.Decoder // kept for many blocks
//	n, err := d.Zlib(block, compressed)
//
// A layer, hashed and parsed as it comes:
//
//	z, err := inflate.NewGzipReader(blob)
//	...
//	_, err = z.WriteTo(w) // pieces of about 512 KiB, not copied
//
// [Decoder.Deflate] takes bare DEFLATE data and tells where it ends. [Zlib] and [Deflate] are for callers with one block:
// they allocate a Decoder (21 KiB). A Decoder itself never allocates; a [Reader] holds 0.8 MiB of buffers, so keep it and
// call [Reader.Reset].
//
// # Why it is fast
//
// While neither buffer's end is near, symbols are decoded from a 64-bit word that is topped up by one unaligned load, by
// tables of 11 and 9 bits whose entries hold base, extra bits and total length of a symbol; matches are copied 32 bytes
// at a time into room that is known to be there. Near the ends a plain loop takes over. What is left is bound by
// mispredicted branches: literal or match, and how long.
//
// # Untrusted input
//
// Output never exceeds the caller's slice, or the Reader's fixed buffers; nothing is allocated by what the input says.
// A header's extra field, name and comment are passed over, never stored; as in compress/gzip a name or comment has at
// most 511 bytes. Time is linear in input plus output; as deflate expands up to 1032 times, bounding the output of a
// Reader is up to its caller.
//
// Adler-32, CRC-32 and the size in a gzip trailer are verified. They come after the data: what Read and WriteTo give is
// vouched for only by their last result. Bytes of dst beyond the returned n may have been written.
//
// Unchecked memory access is confined to four small functions (mem_unsafe.go), called where the margins are argued: in the
// loop of fast.go and in the checksum. The build tag purego, and machines that are big-endian or not known to load
// unaligned words, replace those four by checked ones; all else is the same.
//
// # Errors
//
// Damage is a [*CorruptError], which is an [ErrCorrupt], with the offset at which it showed; in a stream that stops too
// early it is also an [io.ErrUnexpectedEOF]. Output that exceeds the caller's slice is [ErrTooLarge]. A Reader returns
// its source's errors as they are.
//
// # Compatibility
//
// Streams are accepted exactly as compress/flate, compress/zlib and compress/gzip accept them, which the fuzz targets
// assert: a code may be incomplete only if it is a single one-bit code or empty and unused, distances may be up to 32768
// whatever window a zlib header declares, bytes after a zlib stream are ignored (so does Linux after a squashfs block),
// bytes after a gzip member must be another member. There are two differences. A zlib stream that asks for a preset
// dictionary is always refused. A gzip stream of no bytes is a truncated one.
//
// # Concurrency
//
// A Decoder or a Reader serves one goroutine at a time. The functions may be called from any number of them.
package inflate
