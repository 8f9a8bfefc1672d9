package cache

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"hpcimg/image/cache/internal/disk"
)

// maxHashers is enough for any disk, and leaves the other cores of a big node alone.
const (
	maxHashers = 16
	sumSize    = sha256.Size
)

// chunkError is an error at a chunk.
type chunkError struct {
	chunk int64
	err   error
}

// hashChunks hashes the chunks from first to before end of size bytes of data, several at once, and calls each
// with the sums, in any order and concurrently. Of several errors it returns that of the first chunk, so that
// damage has one place; a context's error comes bare.
func hashChunks(ctx context.Context, r io.ReaderAt, size, first, end int64, each func(chunk int64, sum [sumSize]byte) error) (chunkError, error) {
	var (
		next   atomic.Int64
		failed atomic.Bool
		mu     sync.Mutex
		worst  = chunkError{chunk: -1}
		wg     sync.WaitGroup
	)
	next.Store(first)
	work := func() {
		var buf []byte
		for !failed.Load() && ctx.Err() == nil {
			chunk := next.Add(1) - 1
			if chunk >= end {
				return
			}
			n := min(size-chunk*disk.ChunkSize, disk.ChunkSize)
			if buf == nil {
				buf = make([]byte, n)
			}
			err := readFull(r, buf[:n], chunk*disk.ChunkSize)
			if err == nil {
				err = each(chunk, sha256.Sum256(buf[:n]))
			}
			if err != nil {
				failed.Store(true)
				mu.Lock()
				if worst.chunk < 0 || chunk < worst.chunk {
					worst = chunkError{chunk, err}
				}
				mu.Unlock()
			}
		}
	}
	workers := min(int64(runtime.GOMAXPROCS(0)), end-first, maxHashers)
	for range workers - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
	if worst.chunk >= 0 {
		return worst, worst.err
	}
	return worst, ctx.Err()
}

// readFull reads as many bytes as p has; fewer are io.ErrUnexpectedEOF.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// newDigester returns the hash that the key of a blob is made with.
func newDigester(key string) hash.Hash {
	if strings.HasPrefix(key, "sha512-") {
		return sha512.New()
	}
	return sha256.New()
}

func hasDigest(h hash.Hash, key string) bool {
	_, want, _ := strings.Cut(key, "-")
	return hex.EncodeToString(h.Sum(nil)) == want
}

// hashBlob hashes size bytes, which must be all of r.
func hashBlob(ctx context.Context, r io.ReaderAt, size int64, h hash.Hash, done func(n int64)) (offset int64, err error) {
	buf := make([]byte, min(size, disk.ChunkSize))
	for offset < size {
		if err := ctx.Err(); err != nil {
			return offset, err
		}
		n := min(size-offset, disk.ChunkSize)
		if err := readFull(r, buf[:n], offset); err != nil {
			return offset, err
		}
		h.Write(buf[:n])
		offset += n
		if done != nil {
			done(n)
		}
	}
	return offset, nil
}
