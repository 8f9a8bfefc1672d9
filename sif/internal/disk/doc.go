// Package disk states the byte layout of a SIF file once: the global header and the descriptors, decoded and encoded.
//
// All integers are little-endian. Nothing here judges what it reads: a decoded structure may hold any value, and package sif
// decides which of them it accepts.
package disk
