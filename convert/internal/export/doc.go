// Package export writes a finished tree, seen through a squashfs.Reader, in forms that are no squashfs.
//
// [Tar] writes a tar stream: every name once, in the order of the tree, directories before what is in them. It is a function of the
// tree alone. Headers are PAX; extended attributes are SCHILY.xattr records, which is what OCI layers have and what GNU tar,
// bsdtar, umoci and containerd read. An attribute with an equals sign in its name, which such a record cannot have, is a
// LIBARCHIVE.xattr record. The first name of a file has the contents, further ones are hard links. Sockets, for which tar has no type,
// are left out.
//
// [Layer] is that, compressed, with the digests that layers are called by, and [Compress] does the same with a tar stream from
// elsewhere: gzip in one member, or zstd. Files with the name of a whiteout (".wh." and more) would hide other files in a layer and are
// left out. [Dir] makes a directory, and gives it its name when it is complete.
//
//	blob, err := export.Layer(ctx, w, r, export.Gzip, 0, nil)
//
// # Concurrency and memory
//
// The tree is walked by one goroutine; so many workers as the options say read contents and encode headers some MiB ahead of the one that
// writes, and as many compress. The result does not depend on their number, and a few MiB for each are in memory, whatever the size of
// the tree.
//
// # Sparse files
//
// Holes are written as zeros: the OCI image specification advises against sparse files in layers, since not all implementations
// of tar can read them. They cost reading ahead nothing, and compressing next to nothing.
//
// # Untrusted input
//
// A tree may come from an image that somebody has crafted. Paths are bounded to what Linux has room for, and with them the depth of
// directories; extended attributes to what readers of tar take. A file with several names is known by its place in the image and
// not by its number, which another may have as well.
package export
