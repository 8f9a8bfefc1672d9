//go:build purego || !(amd64 || arm64 || ppc64le || loong64)

package inflate

import "encoding/binary"

// The twins of mem_unsafe.go in plain Go, for big-endian or alignment-bound machines and for those who prefer bounds
// checks to arguments (build tag purego).

func load64(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[i : i+8]) }

func store8(b []byte, i int, v byte) { b[i] = v }

func store64(b []byte, i int, v uint64) { binary.LittleEndian.PutUint64(b[i:i+8], v) }

// copy16 copies 16 bytes inside b; the two ranges must not overlap.
func copy16(b []byte, dst, src int) { copy(b[dst:dst+16], b[src:src+16]) }
