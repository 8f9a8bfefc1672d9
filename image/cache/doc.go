// Package cache keeps what conversions can use again in a directory: immutable, verified entries, safe for any
// number of processes, and of nodes that share the directory through NFS or Lustre.
//
//	c, err := cache.Open(dir, nil)
//	if err != nil {
//		return err
//	}
//	e, err := c.Get(ctx, cache.KindSegment, key)
//	if err == nil {
//		err = e.Verify(ctx)
//	}
//	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, cache.ErrCorrupt) {
//		e, err = produce(ctx, c, key) // Create, write, Commit
//	}
//
// An entry has a key, data, and metadata. The key names all that the contents depend on, so two writers of one
// key write the same, and it does not matter whose is kept: nothing is locked, nothing is ever changed or
// replaced, and a lost entry costs the work of making it again.
//
// # Layout
//
//	v1/<kind>/<shard>/<key>        an entry: data, metadata, SHA-256 of each MiB, footer; a blob is bare
//	v1/<kind>/<shard>/<key>.used   when it was used last, and when this very file was verified
//	v1/<kind>/<shard>/.part-…      an entry in the making
//	v1/blob/<shard>/.resume-<key>  a blob on its way, with a checksum of each MiB in .resume-<key>.sums
//	v1/lease/.lease-…              who is at work, see [Cache.Once]
//
// An entry gets its name by link(2) when it is complete. A process that is killed leaves a .part file at most,
// and [Cache.Clean] removes it once the process is known to be dead, or after a day.
//
// # Blobs on their way
//
// [Cache.OpenBlob] reads a blob through the cache. What arrives is kept at once, so a download that is killed is
// continued by the next process, from the last MiB that is complete; checksums find what a crash has not
// written. Readers who come meanwhile read along. What has not the digest in its key is never an entry.
//
// # Trust
//
// What is stored becomes part of images, so it is trusted as those are. A directory is used only if it belongs
// to oneself, root or one of [Options.Owners] and nobody else may write to it; the same is asked of each file,
// and symbolic links and pipes are nothing. Others' directories may be read as further tiers, [Options.Site],
// on the same terms.
//
// # What is verified when
//
// [Cache.Get] checks everything but the data. [Entry.Verify] checks the data, once: for [Options.VerifyAge] a
// mark in the side file spares it, if inode, size, mtime and ctime of the file are what they were. Data must
// not be used before Verify has returned.
//
// Commit syncs an entry before it gets its name. The exception is a directory on ext4, XFS, btrfs or tmpfs of a
// running system: there, a mark names the boot in which it was made, and is good for an hour of that boot.
// Whatever a power cut leaves of such an entry is verified before it is believed; and when the hour is over, it
// is read again, synced, and marked for good.
//
// # Errors
//
// A miss of any sort is fs.ErrNotExist, also when the file system fails: a cache is never a reason for a
// conversion to fail.
//
//	ErrUntrusted, *UntrustedError   from Open: somebody else could plant entries in this directory
//	ErrCorrupt, *CorruptError       from Verify: the data is damaged, and the entry is gone
//	ErrLimit, *LimitError           from Commit: more metadata than Get would read
//	fs.ErrInvalid                   a key or a range that cannot be
//
// # Concurrency
//
// A [Cache] and an [Entry] may be used by any number of goroutines, and entries stay readable when they are
// removed; what NFS makes of that is an error of reading. A [Writer] takes concurrent WriteAt and ReadAt.
//
// # Compatibility
//
// Linux is tested, and macOS is known to compile. Elsewhere the package works without knowing who owns a file,
// and verifies data each time. Hard links are used where there are some; without them two writers may replace
// each other's equal files, and [Cache.Once] tells everybody to go ahead.
package cache
