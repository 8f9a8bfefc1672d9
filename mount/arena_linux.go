package mount

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// arena is memory outside the heap, which is unmapped when the arena is unreachable. Whoever uses its data must keep it.
type arena struct{ data []byte }

func newArena(size int) *arena {
	data, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return &arena{make([]byte, size)}
	}
	// Even a short command has some megabytes decoded, and a fault for each page of those takes longer than clearing them.
	_ = unix.Madvise(data, unix.MADV_HUGEPAGE)
	a := &arena{data}
	runtime.AddCleanup(a, func(data []byte) { _ = unix.Munmap(data) }, data)
	return a
}
