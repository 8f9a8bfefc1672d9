package mount

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// arena is memory outside the heap, which is unmapped when the arena is unreachable. Whoever uses its data must keep it.
type arena struct{ data []byte }

// smallArena is how much of an arena has pages of the usual size: a short command uses no more.
const smallArena = 4 << 20

func newArena(size int) *arena {
	data, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return &arena{make([]byte, size)}
	}
	if size > smallArena {
		// The kernel looks up each page of what it sends. Who needs little is not to wait until two megabytes have been cleared.
		_ = unix.Madvise(data[smallArena:], unix.MADV_HUGEPAGE)
	}
	a := &arena{data}
	runtime.AddCleanup(a, func(data []byte) { _ = unix.Munmap(data) }, data)
	return a
}
