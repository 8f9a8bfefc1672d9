// Package squashfs writes, reads and checks squashfs 4.0 images: compressed,
// read-only file systems in one file, which kernels mount through a loop
// device and FUSE servers without privileges.
//
//	err := squashfs.Create(ctx, "tools.squashfs", nil, func(ctx context.Context, w *squashfs.Writer) error {
//		return w.FromDir(ctx, "/opt/tools", nil)
//	})
//	...
//	r, err := squashfs.Open("tools.squashfs", nil)
//	...
//	defer r.Close()
//	data, err := fs.ReadFile(r, "bin/start")
//
// # Writing
//
// A [Writer] makes an image from entries in any order, or from a directory, a
// tar archive or an [io/fs.FS]. It has two halves, which a program that makes
// images of parts that it has made before uses apart:
//
//	contents ── Packer ── pack: data blocks and fragments, somewhere in a file
//	                      Content: where in the pack a file's contents are
//	names    ── Builder ─ tables behind the packs, superblock before them
//
// A [Packer] knows nothing of names, and what it writes does not depend on the
// place in the image that it is written to. A [Builder] puts the packs of any
// number of packers together. Several packers may share the workers and the
// memory of one [Pool].
//
// Files smaller than 32 KiB are packed in fragments of 64 KiB, blocks of zeros
// take no space, and equal files are stored once.
//
// # Reading
//
// A [Reader] is an [io/fs.FS] over any [io.ReaderAt]. Its FileInfo, [*FileInfo],
// has what Unix adds: owner, inode number, link count, device and extended
// attributes.
//
// # Concurrency
//
// A Reader and a Pool are safe for concurrent use. A Writer, a Packer and a
// Builder are not: they spread the work over as many workers as their options
// say, GOMAXPROCS by default, and with one worker start no goroutine at all.
// No goroutine outlives its work.
//
// # Memory
//
// File contents in flight are bounded by a budget of 2 MiB for each worker and
// 4 MiB more, but at most 64 MiB, whatever their size; tables are held in memory until they are
// written, at about 300 bytes for each entry.
//
// # Reproducibility
//
// The same entries in the same order, with the same options and the same
// release of the compression libraries ([EncoderFingerprint]), give the same
// bytes, with one worker or with sixty-four. Nothing depends on the clock or
// the host.
//
// # Untrusted input
//
// A Reader checks every reference and length before it follows or allocates;
// see [Reader]. A Builder checks names, link targets and the words of a
// [Content], which may come from a file that somebody has stored.
//
// # Errors
//
// [EntryError] reports an entry that an image cannot have, [FormatError] a
// damaged image (ErrFormat), [LimitError] an exceeded limit (ErrLimit). What is
// valid but not supported is [errors.ErrUnsupported].
//
// # Compatibility
//
// Images follow https://docs.kernel.org/filesystems/squashfs.html and are tested
// with the Linux kernel, squashfs-tools 4.5.1, squashfuse and squashfs-tools-ng.
// gzip, the default, mounts everywhere. zstd needs Linux 4.14, and lz4 a kernel
// that has it configured, which those of Enterprise Linux on x86-64 have not.
// xz is read only: kernels fail on some blocks of the encoder that there is.
package squashfs
