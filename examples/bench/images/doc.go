// Package images makes images with the traits of those that people convert, for benchmarks and for tests that need the real thing:
//
//   - base: a minimal Debian (or Ubuntu, on Ubuntu)
//   - python: Python with NumPy and Pandas on top; what only the installation needed goes in a layer of its own, so that a good
//     part of the bytes in the layers is hidden
//   - mpi: Open MPI with its compilers' wrappers, cleaned up in the same way
//   - conda: 60,000 files in the shapes of a Conda installation and one of 1 GiB, made up from a fixed seed
//
// Packages come from the mirror that the machine's own apt uses, by debootstrap and apt in a directory; a layer is what a step
// has changed there. Layers become images by package image. Every image has five versions, v1 to v5, whose top layer has
// nothing but version.txt, and a sixth, [Rebuilt], which has the files of v1 but whose largest layer has been built again: its
// files have new times and the same contents.
//
// Root makes images, on Linux; what has been made stays in a directory of the caller's, and the next call finds it.
package images
