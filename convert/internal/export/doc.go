// Package export writes a finished tree, seen through a squashfs.Reader, in
// forms that are no squashfs.
//
// [Tar] writes a tar stream: every name once, in the order of the tree,
// directories before what is in them. It is a function of the tree alone. Headers are
// PAX; extended attributes are SCHILY.xattr records, which is what OCI layers have
// and GNU tar, bsdtar, umoci and containerd read. The first name of a file has the
// contents, further ones are hard links. Holes are written as zeros. Sockets, for which tar has no
// type, are left out.
//
// [Compress] turns a tar stream into the blob of a layer and says what it is
// called: gzip in one member, or zstd. Blocks are compressed side by side and the
// result does not depend on by how many workers.
//
// Both hold a few blocks for each worker in memory, whatever the size of the tree.
package export
