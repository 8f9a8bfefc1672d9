//go:build !purego && (amd64 || arm64 || ppc64le || loong64)

package inflate

import "unsafe"

// The functions below are all the unsafe code of the package: unaligned little-endian loads and stores without bounds
// checks. Each caller proves 0 <= i and i+width <= len(b); Decoder.fast states the margins that make it so. Pointers
// are always formed from the slice's first byte and never leave its array, not even by one.

func load64(b []byte, i int) uint64 {
	return *(*uint64)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), i))
}

func store8(b []byte, i int, v byte) {
	*(*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), i)) = v
}

func store64(b []byte, i int, v uint64) {
	*(*uint64)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), i)) = v
}

// copy16 copies 16 bytes inside b; the two ranges must not overlap.
func copy16(b []byte, dst, src int) {
	p := unsafe.Pointer(unsafe.SliceData(b))
	*(*[16]byte)(unsafe.Add(p, dst)) = *(*[16]byte)(unsafe.Add(p, src))
}
