// Package oracle gives tests the things that a host may lack: external programs, root, kernel mounts, namespaces.
//
// Every function takes the running test. Where the host lacks what is asked for, the test is skipped; where the
// environment says that it must be there, the test fails instead. No test skips in any other way (internal/policy sees to
// that), so a machine that requires everything proves everything.
//
//	unsquashfs := oracle.Tool(t, "unsquashfs")
//	dir := oracle.KernelMount(t, image) // root only
//
// # Requirements
//
// HPCIMG_REQUIRE is empty, "1" for everything, or a list of needs separated by commas:
//
//	tools     external programs
//	root      effective uid 0, and mount(2) where a test mounts
//	fuse      a usable /dev/fuse
//	userns    user namespaces for an ordinary user
//	network   a package mirror
//	fs        features of the file system below the temporary directory, such as xattrs or reflinks
//
// The suite runs twice, as root and as an ordinary user. In the second run HPCIMG_USER_RUN is 1, and a test that needs root
// is skipped even under HPCIMG_REQUIRE=1: the first run has had it. [NotRoot] is the mirror image, and [Once] is
// for tests that need not run twice. [Short] is a person's own choice. HPCIMG_FUSE is a FUSE device for the ordinary user
// where /dev/fuse is closed.
package oracle
