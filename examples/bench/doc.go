// Command bench measures hpcimg against the programs that people use today,
// side by side on one machine:
//
//	go run ./examples/bench squashfs [-tree DIR]… [-tar FILE] [-generated] [-size MB] [-rounds N] [-quick] [-only LIST] [-json FILE]
//	go run ./examples/bench images [-dir DIR] [-only LIST]
//	go run ./examples/bench patch-tuesday [-images DIR] [-only LIST] [-compression LIST] [-peers LIST] [-apptainer PATH] [-singularity PATH] [-plots DIR] [-json FILE]
//	go run ./examples/bench start -root DIR -sif FILE [-sqfs FILE] [-hpcimg PATH] [-uid N] [-rounds N] [-only REGEXP] [-memory LIST] [-json FILE]
//	go run ./examples/bench segments [-images DIR] [-only LIST] [-registry HOST:PORT] [-dir DIR]
//
// squashfs writes one tree with package squashfs, mksquashfs and tar2sqfs, for
// each compressor at several levels; extracts images with squashfs.ExtractTo
// and unsquashfs; writes the tables of 100,000 entries; and watches memory
// while the input grows. Programs that are not installed are left out.
//
// images makes the images that conversions are measured and tested with: see
// package images below this one. It takes root, and minutes the first time.
//
// patch-tuesday converts five versions of an image, one after the other, that
// differ in one file of a few bytes: what a site does each time that a base
// image has had its monthly update. Beside our runs without a cache, with one
// that is empty at first, and with the version before as a hint, it has
// Apptainer and SingularityCE build the same file, and unpacks with umoci and
// packs with mksquashfs, tar2sqfs or ch-convert. The last version is the first
// one with its largest layer rebuilt: other times, the same files. Ours run on
// disk, on tmpfs, and (root only) on an XFS whose files share blocks.
//
// segments pushes the same versions to a registry, whole and in segments, and
// pulls them: to a node that has nothing, to one that has the version before in
// its cache, and to one that has it in a file. It counts what goes over the
// wire, manifests and all, and compares every file that comes back with the one
// that was made here. These runs are not processes of their own.
//
// read mounts images by the kernel, by our FUSE server, alone and below the overlay
// that package runtime lays over it, and by squashfuse_ll, and
// reads in them: an import of NumPy and pandas, one large file by one reader and
// by sixteen, and a walk. It takes root.
//
// # Method
//
// Every run is a process of its own, ours too: bench starts itself again, so
// that CPU time and peak memory are what the kernel says of a child, taken the
// same way for all. All read the same tar or the same directory, which an
// earlier run has brought into the page cache. The contenders of a table take
// turns, and every other round goes in the opposite order; the table has
// medians, and the CPU column how far runs were apart. On a machine that others
// use too, trust CPU time and ratios, not wall time.
//
// A child's peak memory, as the kernel keeps it, is never less than what the
// parent had at the time of the fork. So bench itself stays small: whatever
// needs memory is done in children.
//
// The programs of patch-tuesday take turns within each version, and the time
// includes removing what a program leaves of its own accord only. "Written" is
// what the kernel has counted for the process and its children: the result and
// all scratch files, but nothing on tmpfs. "Left" is what lies beside the result
// afterwards. Ours wait until the result is on disk, others do not.
//
// # Input
//
// The tree is a sample of /usr of this machine, chosen by hash of the path, so
// that it has the mix of sizes that a distribution has; -tree takes other
// directories, -tar an archive as it is. -generated makes a tree from a fixed
// seed, which is the same on every machine but compresses like no real one.
//
// Everything is written to one temporary directory (-dir says where), which is
// removed at the end, after an interrupt too.
package main
