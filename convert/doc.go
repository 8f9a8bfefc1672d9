// Package convert makes HPC images, one read-only file each, from container
// images, directories and tar streams.
//
//	img, err := image.Open(ctx, "docker://docker.io/library/python:3.12", nil)
//	if err != nil {
//		return err
//	}
//	result, err := convert.Convert(ctx, convert.FromImage(img), "python.sif", nil)
//
// Nothing is unpacked and no other program is run: every layer is read once, as it
// arrives, and its files go compressed to where they will stay. What upper
// layers hide is neither compressed nor stored.
//
//	blob ─ verify ─ inflate ─ verify ─ tar ─┬─ names, attributes ──── merge ─┐
//	                                        └─ contents ─ compress ─ segment ─┴─ assemble ─ squashfs ─ SIF
//
// # What becomes of layers
//
// The result holds what `umoci unpack` would unpack, entry by entry: package
// convert/internal/merge states the rules, and tests compare random stacks of
// layers with it. Owners, setuid bits, devices, hard links across layers, sparse
// files and file capabilities survive, whoever converts. Of the extended attributes,
// user.*, trusted.*, security.capability and security.ima are kept, save for those that
// overlayfs uses; the others are dropped with a [Warning], as are POSIX ACLs, which
// squashfs cannot hold.
//
// For a SIF the files that Apptainer and SingularityCE want are added, and
// /etc/hosts and /etc/resolv.conf are emptied, see [hpcimg/sif.RootFiles]. A SIF, a squashfs or a directory that has been an image
// before keeps the scripts of its environment and its run script.
//
// # Forms
//
// SIF, squashfs and OCI-SIF are written in one pass. The other forms, see [Form], are written from the same segments, compressed as fast as can
// be on their way, through a squashfs that exists in memory and in temporary files only: a tar stream, a directory, or an OCI image whose layers are
// one tar stream, an eStargz, or the squashfs whole or in segments. [FromSquashfs] and [FromSIF] are the way back.
//
// # Files in a registry
//
// A squashfs or SIF file in segments ([LayersSegments], [CutSIF]), as the only layer of an image, or as an artifact ([SIFArtifact],
// [FromArtifact]) stays what it is if a file of that form is asked for: its pieces are fetched straight to their places, those that are in
// [Options.Cache] or somewhere in a file of [Options.Reuse] are copied, each is verified, and so is the whole. docs/formats/segments.md has the
// format. That the digests are right says who has made a file system, and not that it is well-formed.
//
// # What is remembered
//
// With [Options.Cache] or [Options.Reuse], layers that have been converted before are neither fetched nor compressed again, and the
// result is the same bytes: see docs/adr/0012-what-is-remembered-of-layers.md. [Plan] says beforehand what is to be done.
//
// # Untrusted input
//
// Blobs are verified against their descriptors and tar streams against their
// diffIDs, both to the last byte, before the result gets its name. Paths that climb out
// of the root stay inside. Paths, names, link targets, extended attributes, ids,
// devices, the number of entries and the number of bytes are bounded, the last two by
// [Limits]. The media type of a layer is not believed: its first bytes say how it is
// compressed. Memory is a few megabytes for each worker and pipe, and what the names
// and attributes of the image take, some 135 bytes each. While a conversion lasts, garbage is
// collected more often than it would be: as soon as there may be 24 MB of it, unless the process has
// so much else in memory that looking through it takes long.
//
// # Errors
//
// Errors are of type [*Error] and wrap their cause:
//
//	image.ErrDigest      a blob or a diffID is not what it should be
//	image.ErrFormat      the manifest of a file in segments does not add up
//	ErrFormat            a layer is no tar stream, or is damaged
//	ErrUnsafePath        an entry has a path that no file can have
//	ErrWhiteout          a whiteout hides nothing that has a name
//	ErrHardLink          a hard link leads nowhere (also fs.ErrNotExist) or to a directory
//	ErrLimit             something is larger than a limit
//	errors.ErrUnsupported  a layer is of a kind that nobody here knows
//	ErrForm, ErrArch     the destination's form, or the architecture, is not known
//	ErrSpace             the destination is too small, or full
//	fs.ErrExist          the destination exists, and Force is not set
//
// After an error, or when the context ends, nothing is left, and what had the
// destination's name before has it still.
//
// # Reproducibility
//
// The result is a function of the source and the options: not of the number of
// workers, of timing, of the place or of what was converted before. Times come from
// the layers, the image's config and [Options.Time].
//
// # Concurrency
//
// Conversions may run at the same time, also to the same destination, of which
// one wins. [Options.Progress] is called from one goroutine.
//
// # Privileges
//
// None: what needs root on a disk are only words in a squashfs. A directory is
// read with the rights of the caller.
package convert
