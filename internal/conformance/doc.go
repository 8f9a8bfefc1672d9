// Package conformance has the tests that need the whole chain: a real distribution, a real registry, the kernel.
//
// It has no code of its own. A Debian with NumPy is made by debootstrap, once per machine, from the mirror that the machine's own
// apt uses; it is kept in the user's cache directory under hpcimg-test. A second layer hides and replaces parts of it. umoci
// puts both into an image, skopeo pushes that to a registry program, and what hpcimg makes of it is mounted by the kernel and
// compared, entry by entry, with what umoci unpacks from the same image.
//
// The tests need root, take minutes the first time, and are not part of -short.
package conformance
