// Package fstestx tests that a file system behaves: the same assertions for a directory, our reader, a FUSE mount and a
// kernel mount.
//
//	fstestx.Test(t, reader, tree.Listing(), nil)
//	fstestx.Test(t, os.DirFS(oracle.KernelMount(t, image)), tree.Listing(), &fstestx.Options{Mounted: true})
//
// It starts with [testing/fstest.TestFS], compares with what should be there by internal/testtree, and goes on where those
// two stop: reads at every kind of offset, several readers of one file at once, directories read in small pieces, and
// the errors for what is not there.
package fstestx
