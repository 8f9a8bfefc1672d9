// Command hpcimg pulls, converts, inspects, signs, mounts and runs HPC
// container images. It is an example of how the packages of module hpcimg
// compose, and a tool for quick tests; a program at a site imports the packages
// instead.
//
//	hpcimg pull docker://HOST/REPO:TAG        registry to name.tag.sif
//	hpcimg convert SRC DEST                   any source to SIF or squashfs
//	hpcimg push SRC DEST                      layout or archive to a registry
//	hpcimg inspect IMAGE                      what an image says of itself
//	hpcimg ls|cat|extract IMAGE [PATH …]      its files, without a mount
//	hpcimg key new|import|export|list|remove  OpenPGP keys
//	hpcimg sign|verify IMAGE                  SIF signatures
//	hpcimg exec|run|shell IMAGE [ARG …]       a process in the image, which may be one in a registry
//	hpcimg mount IMAGE DIR · umount DIR       by the kernel for root, by FUSE for everybody
//	hpcimg cache list|clean|verify            what conversions keep for the next one
//	hpcimg probe                              what this host allows, and why not
//
// # References
//
// A reference names its transport: docker://HOST/REPO[:TAG|@DIGEST],
// oci:DIR[:TAG|@DIGEST], oci-archive:FILE[:TAG], docker-archive:FILE[:REF],
// dir:PATH, tar:FILE, squashfs:FILE, sif:FILE, oci-sif:FILE. A bare path goes by
// its content, a bare destination by its extension (.sif .oci.sif .sqfs .sqsh
// .squashfs .tar).
//
// # Environment
//
// The packages read no environment; the command does, and hands them values:
// SOURCE_DATE_EPOCH (the time stamps of what is written), DOCKER_CONFIG and
// REGISTRY_AUTH_FILE (credentials), APPTAINER_KEYSDIR (where keys live),
// HPCIMG_CACHE_DIR or else XDG_CACHE_HOME (where the cache is),
// APPTAINERENV_X and SINGULARITYENV_X (variable X inside the container), TMPDIR.
//
// # Exit status
//
// exec and run end with the status of the contained program; 125 says that the
// container could not be set up, 126 that the program is not executable, 127
// that it is not in the image. Wrong usage is 2, and is found before any work
// begins; any other failure is 1. A command that an interrupt, SIGTERM or SIGHUP
// stops ends with 128 and the number of the signal: 130, 143, 129. A failed or
// stopped command leaves no file behind and does not touch an existing one; a
// second signal kills it at once.
package main
