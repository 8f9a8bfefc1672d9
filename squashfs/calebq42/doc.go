// Package calebq42 reads squashfs images with github.com/CalebQ42/squashfs.
//
// Package hpcimg/squashfs is the reader to use. This one is for the two old
// compressors that it does not know, lzo and lzma, and serves tests as a second
// opinion:
//
//	fsys, err := calebq42.NewFS(file)
//	if err != nil {
//		return err
//	}
//	data, err := fs.ReadFile(fsys, "etc/os-release")
//
// # Licence
//
// The module links GPL code, for lzo, unless it is built with the tag no_gpl.
// Nobody should get that by accident, not even by importing this package. So
// the package does something only in programs built with one of these tags:
//
//	no_gpl      lzma and all compressors with a permissive licence
//	hpcimg_gpl  lzo as well; the program is then subject to the GPL
//
// Without a tag, or with an image whose compressor the tag leaves out, [NewFS]
// fails; the error is errors.ErrUnsupported.
//
// # Untrusted input
//
// Read only images that you trust. The module panics, hangs or takes all memory
// when it meets a damaged one. What can be done about that from outside is
// done: panics become errors, names that no file can have are refused, files
// that end early are errors instead of short. Memory and time are not bounded.
//
// # Compatibility
//
// Of the module only Read is used: its WriteTo hangs now and then and drops
// holes, its Extract leaves the destination, its Glob returns wrong names. It
// fails on lz4 images, ends early in files with holes, and has no extended
// attributes, device numbers or link counts. The version is pinned: 1.4.1.
package calebq42
