//go:build !linux

package mount

type arena struct{ data []byte }

func newArena(size int) *arena { return &arena{make([]byte, size)} }
