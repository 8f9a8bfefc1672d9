package cache

import (
	"io"
	"os"
	"sync/atomic"

	"hpcimg/image/cache/internal/disk"
)

// Entry is an open entry. It stays readable when the cache forgets it, and never changes; on a network file
// system reading may end with an error once another node has removed it. Its methods may be called
// concurrently, save for Close.
type Entry struct {
	c    *Cache
	kind Kind
	key  string
	tier string
	path string

	f    *os.File
	id   identity
	size int64
	meta []byte
	sums []byte // SHA-256 of each chunk of the data; nil of a blob

	verified atomic.Bool
	durable  bool // we have synced it, before anybody else could see it
}

// Size returns the size of the data.
func (e *Entry) Size() int64 { return e.size }

// ReadAt reads data. Nothing checks it but Verify and VerifyRange, and nothing may be done with data that they
// have not checked.
func (e *Entry) ReadAt(p []byte, off int64) (int, error) {
	if off >= e.size {
		return 0, io.EOF
	}
	if rest := e.size - off; int64(len(p)) > rest {
		n, err := e.f.ReadAt(p[:rest], off)
		if err == nil {
			err = io.EOF
		}
		return n, err
	}
	return e.f.ReadAt(p, off)
}

// Meta returns what the writer said of the data. It has been checked, is shared, and must not be changed. A
// blob has none.
func (e *Entry) Meta() []byte { return e.meta }

// File returns the file of the entry, open for reading. The data stands at its offset 0, followed by zeros up
// to a multiple of 4096 except for a blob, so that ranges can be cloned out of it. The file is closed with the
// entry.
func (e *Entry) File() *os.File { return e.f }

// Close closes the file.
func (e *Entry) Close() error { return e.f.Close() }

func (e *Entry) corrupt(offset int64, err error) *CorruptError {
	return &CorruptError{Kind: e.kind, Key: e.key, Tier: e.tier, Offset: offset, Err: err}
}

// sum returns what the SHA-256 of a chunk should be.
func (e *Entry) sum(chunk int64) []byte { return e.sums[chunk*sumSize : (chunk+1)*sumSize] }

func (e *Entry) chunks() int64 { return disk.Chunks(e.size) }
