// Package conformance has the tests that need the whole chain: real distributions, a real registry, the kernel, processes that are
// killed and disks that are full.
//
// It has no code of its own. Images of a distribution are made by package examples/bench/images, once per machine, from the mirror
// that the machine's own apt uses; they are kept in the user's cache directory under hpcimg-images. What hpcimg makes of them is
// mounted by the kernel and compared, entry by entry, with what umoci unpacks; a version with one more layer, which hides and
// replaces parts of the others, goes through a registry program.
//
// The other tests take an image that is made up and small, and spoil things for the command line, or for package convert, while
// it is converted: they end the process, fill the disk, exceed a quota, damage the cache, or convert it many times at once.
//
// The tests with real images need root, take minutes the first time, and are not part of -short. -long takes all of the images,
// 200 kills instead of a few, and more rounds of what depends on chance.
package conformance
