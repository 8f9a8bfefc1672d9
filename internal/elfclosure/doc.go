// Package elfclosure finds the files that ELF programs need to run: their
// interpreter and, transitively, the shared libraries that it would load, by the
// search rules of ld.so: DT_RPATH, DT_RUNPATH, the cache of ldconfig, and the
// default directories. Nothing is executed.
//
// It serves to make an image from the machine that a program runs on. Files are
// read from the machine's own root file system, which is trusted.
package elfclosure
