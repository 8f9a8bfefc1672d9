// Package wire is the byte layout of the FUSE protocol as far as a read-only file system needs it: requests in, replies
// out. It makes no system calls and keeps nothing.
//
// Messages are in the byte order of the machine, as the kernel writes them. Requests come from a kernel and are checked all the
// same: whoever holds the other end of a descriptor that was handed over need not be one. Layouts follow
// include/uapi/linux/fuse.h of Linux; versions from 7.23 (Linux 3.15) on are spoken.
package wire
