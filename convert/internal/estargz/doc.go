// Package estargz writes layers in the eStargz format, of which a node fetches only the parts that it reads.
//
// An eStargz blob is a tar.gz that every consumer of layers takes, in a form that allows random access:
//
//	member   header of .no.prefetch.landmark, a file of one byte
//	member   that byte, padding, headers of the entries up to the first file that is not empty
//	member   the first chunk of that file … padding, headers up to the next contents
//	…
//	member   stargz.index.json (the table of contents) as the last tar entry, end of archive
//	footer   51 bytes: an empty member whose extra field has the offset of the one before
//
// The table of contents (TOC) has an entry for each tar entry with all attributes and, for contents, the offset of the member and
// the SHA-256 of each chunk. Its own SHA-256 goes to the annotation
// containerd.io/snapshot/stargz/toc.digest of the layer; so a manifest binds every chunk. The format:
// https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md
//
//	res, err := estargz.Write(ctx, blob, stream, nil)
//
// # One pass
//
// The tar stream is read once and written as it comes. The caller's goroutine parses it and cuts it into batches of members; workers
// compress them and hash their chunks; one goroutine hashes the tar stream, one puts the members in order, hashes the blob and
// writes it. Every byte is compressed once and hashed once per digest that covers it, and nothing is read again. In memory are
// a batch for each worker and a few more, each of at most ChunkSize and 6 MiB, with its result, and about 300 bytes
// and the name for each entry.
//
// Files that are to come first ([Options.Prioritized]) need a second look at the input: it is sought in if it can be, else it goes
// through a file in Options.SpoolDir that has no name.
//
// # Reproducibility
//
// The blob is a function of the tar stream and of ChunkSize, Level and Prioritized; the number of workers does not show. It changes with
// releases of the compressor.
//
// # What becomes of the tar stream
//
// Headers are written anew, in the format that they had (PAX if that cannot hold them), because what a parser makes of odd ones is not
// what another makes of them: names, owners, modes, times to the fraction, devices, links, extended attributes and PAX records
// that nobody knows are the same, padding and spelling of numbers need not be. Sparse files become plain ones with the
// same contents. Global PAX headers, landmarks, an old TOC and what follows the end of the archive are left out.
//
// If a path comes twice, the last one counts, and the only one in the TOC; the tar stream keeps both, unless files are to come
// first.
//
// # Untrusted input
//
// The TOC and the tar stream are two descriptions of one layer, and readers believe one or the other. What would make them differ is an
// error that is [errors.ErrUnsupported], with the cure to store that layer as plain tar: names that are not UTF-8, which
// JSON cannot say; entries below something that is no directory, such as a symbolic link of the same layer; hard links to a path that
// is not in the layer before them, or that is replaced after them. Names, link targets, extended attributes, ids and
// device numbers, the number of entries and of bytes are bounded as in package layer, whose errors are used here.
package estargz
