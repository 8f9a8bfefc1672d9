// Package atomicfile writes a file under a temporary name beside its destination and publishes it in one step.
//
// A reader of the destination sees the whole old file or the whole new one, whatever happens in between: an error, a
// cancelled context, a full disk, a killed process.
//
//	f, err := atomicfile.Create("image.sif", &atomicfile.Options{Mode: 0o755})
//	if err != nil {
//		return err
//	}
//	defer f.Abort()
//	// write to f ...
//	return f.Commit()
//
// # Names
//
// The temporary file is in the directory of the destination, so that publishing never crosses a file system. On Linux it has
// no name until it is complete (O_TMPFILE), and a process that is killed leaves nothing behind. Where that cannot be had it is called
// `.<name>.part-<host>-<pid>-<random>`, and a process that is killed leaves that, until somebody writes the same destination on the same
// machine: [Create] removes what processes have left that are no more. <host> stands for a machine since its start and for a namespace of
// process IDs, so that on a shared file system nobody judges the processes of others. It is created with O_EXCL and mode 0600: a name planted
// by somebody else is never opened or followed.
//
// [Mkdir] gives a directory such a name, by the same rules. [Abandoned] tells them for whoever cleans up a directory.
//
// A symbolic link at the destination is replaced, not followed. Anything else there that is not a regular file is
// refused by [Create], so that a device or a pipe is never replaced by a file.
//
// # Durability
//
// [File.Commit] syncs the contents before it publishes the name and syncs the directory afterwards. Both errors are
// reported: on network file systems a quota or a full disk may show up only there.
//
// # Network file systems
//
// O_TMPFILE and renameat2 are missing on many of them, and neither is needed. Options.NoReplace uses link(2), which
// refuses an existing name everywhere; an answer "exists" that was caused by our own retransmitted request is recognised by
// comparing the two files.
//
// # Concurrency
//
// A [File] belongs to one goroutine, apart from WriteAt and ReadAt, which may be called from several. Any number of processes
// may write the same destination; the last Commit wins, or the first one with NoReplace.
package atomicfile
