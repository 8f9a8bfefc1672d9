// Package ldcache reads /etc/ld.so.cache, the dynamic linker's list of shared libraries, without ldconfig.
//
//	entries, err := ldcache.Parse(data)
//
// Both layouts are read: the new one of glibc since 2.2, and the one in which it follows the old. The new layout is a
// header of 48 bytes (magic, number of libraries, length of the strings), an entry of 24 bytes for each library, and
// strings at offsets from the start of the header:
//
//	flags int32 | key uint32 | value uint32 | osversion uint32 | hwcap uint64
//
// The key is the SONAME, the value the path. A cache lists libraries of several machines, the better first: look at the
// ELF header of a file before taking it.
//
// # Untrusted input
//
// The cache of the host is the host's, but an image may have one too. Numbers are checked against the size of the input
// before anything is allocated, strings are at most 4096 bytes long, and damaged caches are an error.
package ldcache
