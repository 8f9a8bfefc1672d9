// Package sif reads and writes SIF, the single-file image format of Apptainer and SingularityCE.
//
// A SIF file is a header, a table of descriptors and the data objects that these describe. In a container image one object is a
// partition, a squashfs that holds the root file system; the others describe it.
//
//	0      global header     launch script, magic, architecture, ID, times          128 bytes
//	4096   descriptor table  48 slots of 585 bytes
//	32176  definition file   what the image was built from
//	       inspect-metadata.json, oci-config.json
//	36864  primary partition squashfs, aligned to 4096
//	       signatures        appended later
//
// [Open] and [NewFile] check a file and list its objects:
//
//	f, err := sif.Open("image.sif")
//	if err != nil {
//		return err
//	}
//	defer f.Close()
//	p, err := f.Primary()
//	// p.Open() reads the squashfs; p.Offset and p.Size locate it for a mount
//
// [NewWriter] makes one. The partition is not handed over but written in place by the caller, between BeginPartition and
// EndPartition, so that a squashfs of any size goes straight to its final position. [AddObject] and [DeleteObject] change an existing
// file by way of a copy.
//
// [NewOCIWriter] makes an OCI-SIF, the form in which SingularityCE keeps OCI images with layers that are squashfs.
//
// [RootFiles] returns what Apptainer expects inside the root file system of an image that came from a registry (/.singularity.d and a few
// names around it), and the matching [Metadata].
//
// # Untrusted input
//
// Header and table are bounded before anything is allocated: at most 1024 descriptors, a table of exactly that size, every offset and
// size inside the file, no object over the header, the table or another object, IDs unique and above zero. Definition and JSON
// objects are read only up to a limit of a few MiB. What an object holds is not judged here. Names may hold control characters:
// quote them for a terminal.
//
// Nothing in a file is authenticated until package sign says so, and even then offsets, group numbers, modification times and the
// architecture of the header are not: docs/adr/0006 has the table.
//
// # Errors
//
// A file that is not a SIF or a damaged one gives a [*FormatError], which is [ErrFormat]. Exceeded limits are [ErrLimit], absent objects
// fs.ErrNotExist, and features that exist but are not handled errors.ErrUnsupported. [PrimaryError] says why the
// partition to run cannot be used. Errors of the reader below are passed on as they are.
//
// # Reproducibility
//
// Nothing here reads the clock or makes up an ID. The zero [WriterOptions] give the nil UUID and the times that `apptainer build
// --reproducible` stores, the zero time of Go in seconds. Same input, same bytes: those that github.com/sylabs/sif/v2 writes for it.
//
// # Concurrency
//
// A [File] is immutable and may be used by many goroutines. A [Writer] belongs to one.
//
// # Compatibility
//
// Format version 01. The files of SingularityCE 3.x to 4.x and Apptainer 1.x are read, OCI-SIF included (as objects; it has no primary
// partition). The format is described at https://github.com/sylabs/sif.
package sif
