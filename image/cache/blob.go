package cache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"hpcimg/image/cache/internal/disk"
)

// fetch opens a blob at its source.
type fetch = func(ctx context.Context, off int64) (io.ReadCloser, error)

const (
	firstLook = 10 * time.Millisecond
	lastLook  = time.Second
	// maxRepairs is how often a blob is read again from a chunk that has come back damaged from the disk.
	maxRepairs = 3
)

// OpenBlob reads a blob of size bytes: from the cache, or through it from its source. What arrives is kept as it does, whether the
// reading ends well or not, and whoever wants the blob next, here or in another process, goes on where it broke off: no more than
// the MiB that was on its way is fetched again. Of several who want it at once, in this process, in others and on other nodes,
// one fetches, ahead of its own reader, and the rest read along; if it fails or dies another one goes on.
//
// The reader ends in io.EOF only if all bytes were there and have the digest in the key; otherwise in a *CorruptError, with nothing of
// the blob left in the cache, or the error of fetch, as it is. Trouble with the cache's own files is none of the reader's: it
// then reads the source directly.
//
// Fetch opens the blob at its source, to be read from byte off to its end; its context is for the reading as well. It may be called before
// OpenBlob returns, or later, in another goroutine, and again after something of the blob had to be given up. Close may be called
// while a Read is waiting, and ends what this reader fetches.
func (c *Cache) OpenBlob(ctx context.Context, key string, size int64, fetch func(ctx context.Context, off int64) (io.ReadCloser, error)) (io.ReadCloser, error) {
	if err := checkKey(KindBlob, key); err != nil {
		return nil, err
	}
	if size < 0 {
		return nil, fmt.Errorf("cache: blob of %d bytes: %w", size, fs.ErrInvalid)
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &blobReader{c: c, ctx: ctx, cancel: cancel, key: key, size: size, fetch: fetch, hash: newDigester(key), nap: firstLook}
	if err := r.begin(); err != nil {
		r.shut()
		return nil, err
	}
	return r, nil
}

// blobReader reads a blob from wherever its next bytes are to be had.
type blobReader struct {
	c      *Cache
	ctx    context.Context //nolint:containedctx // of OpenBlob, for what Read does
	cancel context.CancelFunc
	key    string
	size   int64
	fetch  fetch

	mu   sync.Mutex // of all that follows: Close waits for Read
	hash hash.Hash
	off  int64
	err  error // of every Read from here on

	entry *Entry        // it is in the cache
	body  io.ReadCloser // or read without
	part  *part         // or on its way
	buf   []byte        // a chunk of the part
	chunk []byte        // what is left to be read of it

	lease   *lease
	release func()  // of the lease, if we have it
	fill    *filler // of who has
	repairs int

	nap   time.Duration // until the next look at what somebody else is doing
	quiet time.Time     // since when there is nothing new
}

// begin finds the blob, or somebody who is at it, or begins to fetch it.
func (r *blobReader) begin() error {
	switch {
	case r.size == 0 || r.find():
		return nil
	case r.size > maxPart:
		return r.direct(errors.New("too large to be kept on its way"))
	}
	r.lease = r.c.newLease("blob " + r.key)
	if err := r.c.mkdir(filepath.Dir(r.lease.path)); err != nil {
		return r.direct(err)
	}
	_, err := r.lead()
	return err
}

// find looks for the blob in the cache.
func (r *blobReader) find() bool {
	e, err := r.c.Get(r.ctx, KindBlob, r.key)
	if err != nil {
		return false
	}
	if e.Size() != r.size || e.Verify(r.ctx) != nil {
		_ = e.Close()
		return false
	}
	r.entry = e
	return true
}

// lead takes the lease, if nobody has it, and begins to fetch. An error is one of the source.
func (r *blobReader) lead() (bool, error) {
	held, err := r.lease.acquire()
	if err != nil {
		return true, r.alone(err)
	}
	if !held {
		return false, nil
	}
	r.release = r.lease.keep()
	if r.find() { // the last holder has just published
		r.letGo()
		return true, nil
	}
	r.closePart()
	p, err := r.c.leadPart(r.key, r.size)
	if err != nil {
		return true, r.direct(err)
	}
	r.part = p
	if have := r.part.have(); have > 0 {
		r.c.opts.Logger.Debug("cache: going on with a blob", "key", r.key, "have", have, "size", r.size)
	}
	return true, r.startFill()
}

// alone fetches the blob into a file that nobody else looks for: there are no leases here.
func (r *blobReader) alone(why error) error {
	r.c.opts.Logger.Debug("cache: fetching a blob without a lease", "key", r.key, "error", why)
	r.closePart()
	p, err := r.c.privatePart(r.key, r.size)
	if err != nil {
		return r.direct(err)
	}
	r.part = p
	return r.startFill()
}

func (r *blobReader) startFill() (err error) {
	r.fill, err = startFill(r.ctx, r.part, r.fetch, r.off/disk.ChunkSize)
	return err
}

func (r *blobReader) closePart() {
	if r.part != nil {
		r.part.close()
		r.part = nil
	}
}

// direct reads the source from here on, without the cache.
func (r *blobReader) direct(why error) (err error) {
	if r.ctx.Err() == nil {
		r.c.opts.Logger.Debug("cache: reading a blob without the cache", "key", r.key, "error", why)
	}
	r.letGo()
	r.body, err = r.fetch(r.ctx, r.off)
	return err
}

func (r *blobReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for n == 0 && len(p) > 0 && r.err == nil && r.off < r.size {
		n, r.err = r.step(p[:min(int64(len(p)), r.size-r.off)])
		r.hash.Write(p[:n])
		r.off += int64(n)
		if r.off == r.size {
			r.err = nil
		}
	}
	if r.err == nil && r.off == r.size {
		r.err = r.finish()
	}
	return n, r.err
}

// step reads something, or comes nearer to it.
func (r *blobReader) step(p []byte) (n int, err error) {
	switch {
	case len(r.chunk) > 0:
		n = copy(p, r.chunk)
		r.chunk = r.chunk[n:]
		return n, nil
	case r.entry != nil:
		n, err = r.entry.ReadAt(p, r.off)
		if n == 0 && err != nil {
			_ = r.entry.Close()
			r.entry = nil
			return 0, r.direct(err)
		}
		return n, nil
	case r.body != nil:
		n, err = r.body.Read(p)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	case r.fill != nil:
		return 0, r.next()
	}
	return 0, r.follow()
}

// next takes the next chunk of what we are fetching.
func (r *blobReader) next() error {
	i := r.off / disk.ChunkSize
	err := r.load(i)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errAbsent):
		return r.await(i)
	}
	return r.repair(i, err)
}

func (r *blobReader) load(i int64) error {
	data, err := r.part.load(i, r.buf)
	if err != nil {
		return err
	}
	r.buf, r.chunk = data, data[r.off-i*disk.ChunkSize:]
	return nil
}

// await waits until a chunk is there, or will not come.
func (r *blobReader) await(i int64) error {
	news := r.fill.event()
	ended, err, diskErr := r.fill.ended()
	switch {
	case r.part.has(i):
		return nil
	case diskErr != nil:
		if full(diskErr) {
			r.abandon()
		}
		return r.direct(diskErr)
	case err != nil:
		return err
	case ended:
		return r.repair(i, errAbsent)
	}
	select {
	case <-news:
	case <-r.fill.done:
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
	return nil
}

// full reports whether it was room that lacked.
func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// abandon removes the part: on a full disk, what has come of a blob is in the way of everybody, and of no use to who goes on later.
func (r *blobReader) abandon() {
	r.fill.stop()
	r.part.remove()
	r.part, r.fill = nil, nil
}

// repair fetches a chunk again that cannot be read from our own disk.
func (r *blobReader) repair(i int64, why error) error {
	r.c.opts.Logger.Debug("cache: damaged on its way", "key", r.key, "error", why)
	r.fill.stop()
	if r.repairs++; r.repairs > maxRepairs {
		return r.direct(why)
	}
	if err := r.part.drop(i); err != nil {
		return r.direct(err)
	}
	return r.startFill()
}

// follow looks what whoever fetches the blob has done since the last time, or takes over.
func (r *blobReader) follow() error {
	if r.part != nil && r.load(r.off/disk.ChunkSize) == nil {
		return nil
	}
	if r.quiet.IsZero() {
		r.quiet = time.Now()
	}
	if r.find() {
		r.letGo()
		return nil
	}
	if led, err := r.lead(); led {
		return err
	}
	// Opened anew, since it may have been replaced, and on NFS to see what is new in it.
	r.closePart()
	if p, err := r.c.openPart(r.key, r.size, os.O_RDONLY); err == nil {
		r.part = p
		if r.load(r.off/disk.ChunkSize) == nil {
			r.nap, r.quiet = firstLook, time.Time{}
			return nil
		}
	}
	if time.Since(r.quiet) > 2*r.c.times.stale {
		return r.direct(errors.New("whoever is at it brings nothing"))
	}
	if err := sleep(r.ctx, r.nap/2+mathrand.N(r.nap/2+1)); err != nil {
		return err
	}
	r.nap = min(r.nap*3/2, lastLook)
	return nil
}

// finish says whether the blob is right, and makes it an entry if that is for us to do.
func (r *blobReader) finish() error {
	defer r.letGo()
	if hasDigest(r.hash, r.key) {
		if r.fill != nil {
			r.publish()
		}
		return io.EOF
	}
	algorithm, _, _ := strings.Cut(r.key, "-")
	err := &CorruptError{Kind: KindBlob, Key: r.key, Tier: r.c.dir, Offset: -1, Got: fmt.Sprintf("%s-%x", algorithm, r.hash.Sum(nil)), Err: errOther}
	switch {
	case r.entry != nil:
		if info, statErr := r.entry.f.Stat(); statErr == nil {
			r.c.discard(r.entry.tier, r.entry.path, info, err)
		}
	case r.fill != nil:
		r.abandon()
	}
	return err
}

// publish makes the part an entry. All of it has gone through the hash.
func (r *blobReader) publish() {
	r.fill.stop()
	p := r.part
	r.part, r.fill = nil, nil
	w := &Writer{c: r.c, kind: KindBlob, key: r.key, dir: filepath.Dir(p.path), temp: p.path, f: p.f, off: r.size, digest: r.hash}
	e, err := w.Commit(r.ctx, r.size, nil)
	if err != nil {
		r.c.opts.Logger.Debug("cache: blob not kept", "key", r.key, "error", err)
	} else {
		_ = e.Close()
	}
	if p.sums != nil {
		_ = p.sums.Close()
		_ = r.c.steps.do("remove", p.path+sumsSuffix, func() error { return os.Remove(p.path + sumsSuffix) })
	}
}

// letGo ends our work on the part and leaves it to others.
func (r *blobReader) letGo() {
	if r.fill != nil {
		r.fill.stop()
	}
	if r.part != nil && r.part.leading && r.part.sums == nil {
		r.part.remove()
	} else if r.part != nil {
		r.part.close()
	}
	if r.release != nil {
		r.release()
	}
	r.fill, r.part, r.release = nil, nil, nil
}

// shut ends everything.
func (r *blobReader) shut() {
	r.cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.letGo()
	if r.entry != nil {
		_ = r.entry.Close()
		r.entry = nil
	}
	if r.body != nil {
		_ = r.body.Close()
		r.body = nil
	}
	if r.err == nil {
		r.err = fs.ErrClosed
	}
}

func (r *blobReader) Close() error {
	r.shut()
	return nil
}
