package cache

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"hpcimg/image/cache/internal/disk"
)

// Writer is an entry in the making, under a temporary name. WriteAt and ReadAt may be called concurrently;
// Write, Commit and Abort belong to one goroutine.
type Writer struct {
	c    *Cache
	kind Kind
	key  string
	dir  string
	temp string
	f    *os.File
	done bool

	off    int64       // of Write
	digest hash.Hash   // of what Write wrote, if the key is a digest
	random atomic.Bool // something else than Write may have written
}

// Create begins an entry. The caller calls Abort when done, after Commit too.
func (c *Cache) Create(kind Kind, key string) (*Writer, error) {
	if err := checkKey(kind, key); err != nil {
		return nil, err
	}
	w := &Writer{c: c, kind: kind, key: key, dir: shard(c.dir, kind, key)}
	if err := c.mkdir(w.dir); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	var err error
	if w.f, w.temp, err = c.createTemp(w.dir, key); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if kind == KindBlob {
		w.digest = newDigester(key)
	}
	return w, nil
}

// SetKey gives an index or a segment another key than Create was told, for those who only know it when they
// have written it. The first two characters, which say in what directory the entry is, must be the same.
func (w *Writer) SetKey(key string) error {
	if err := checkKey(w.kind, key); err != nil {
		return err
	}
	if w.done || w.kind == KindBlob || shard(w.c.dir, w.kind, key) != w.dir {
		return fmt.Errorf("cache: key %q for %s %s: %w", key, w.kind, w.key, fs.ErrInvalid)
	}
	w.key = key
	return nil
}

// Write appends to what Write has written before. A blob that is written by Write alone is hashed on the way.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.writeAt(p, w.off)
	w.off += int64(n)
	if w.digest != nil {
		w.digest.Write(p[:n])
	}
	return n, err
}

// WriteAt writes data.
func (w *Writer) WriteAt(p []byte, off int64) (int, error) {
	w.random.Store(true)
	return w.writeAt(p, off)
}

func (w *Writer) writeAt(p []byte, off int64) (n int, err error) {
	err = w.c.steps.do("write", w.temp, func() (err error) {
		n, err = w.f.WriteAt(p, off)
		return err
	})
	return n, err
}

// ReadAt reads what has been written.
func (w *Writer) ReadAt(p []byte, off int64) (int, error) { return w.f.ReadAt(p, off) }

// File returns the file that the data goes to, from its offset 0, so that ranges of another file can be cloned into it.
func (w *Writer) File() *os.File {
	w.random.Store(true)
	return w.f
}

// Abort removes what was written. After Commit or another Abort it does nothing.
func (w *Writer) Abort() error {
	if w.done {
		return nil
	}
	w.done = true
	err := errors.Join(w.f.Close(), w.removeTemp())
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}

func (w *Writer) removeTemp() error {
	return w.c.steps.do("remove", w.temp, func() error { return os.Remove(w.temp) })
}

// Commit makes the first size bytes and meta an entry and returns it, open and verified. A blob has no meta,
// and is refused with a *CorruptError if it does not have its digest; more than 256 MiB of meta are a
// *LimitError.
//
// The entry gets its name only if nobody else has made the same one meanwhile. Else Commit returns one's own
// all the same, which nobody else will see. Any error of the file system that shows up by then, and there are
// some that only do when data is synced or a file is closed, is Commit's, and nothing is left then.
//
// The data is synced, unless the file system is a local one whose power cuts are also ours: then nobody
// believes it after one, until it has been verified again.
func (w *Writer) Commit(ctx context.Context, size int64, meta []byte) (*Entry, error) {
	if w.done {
		return nil, fmt.Errorf("cache: commit: %w", fs.ErrClosed)
	}
	e, err := w.commit(ctx, size, meta)
	w.done = true
	if err != nil {
		_ = w.f.Close()
		_ = w.removeTemp()
		if _, ok := errors.AsType[*CorruptError](err); ok || errors.Is(err, ErrLimit) {
			return nil, err
		}
		return nil, fmt.Errorf("cache: commit %s %s: %w", w.kind, w.key, err)
	}
	w.c.evict(ctx)
	return e, nil
}

func (w *Writer) commit(ctx context.Context, size int64, meta []byte) (*Entry, error) {
	if size < 0 || w.kind == KindBlob && len(meta) > 0 {
		return nil, fs.ErrInvalid
	}
	if len(meta) > disk.MaxMeta {
		return nil, &LimitError{What: "metadata of " + string(w.kind) + " " + w.key, Limit: disk.MaxMeta}
	}
	if err := w.c.steps.do("truncate", w.temp, func() error { return w.f.Truncate(size) }); err != nil {
		return nil, err
	}
	e := &Entry{c: w.c, kind: w.kind, key: w.key, tier: w.c.dir, path: filepath.Join(w.dir, w.key), size: size}
	e.verified.Store(true)
	var err error
	if w.kind == KindBlob {
		err = w.checkDigest(ctx, size)
	} else {
		err = w.writeTail(ctx, e, meta)
	}
	if err != nil {
		return nil, err
	}
	e.durable = !w.c.local
	if err := w.finish(e); err != nil {
		return nil, err
	}
	if err := w.publish(e); err != nil {
		e.f.Close()
		return nil, err
	}
	return e, nil
}

func (w *Writer) checkDigest(ctx context.Context, size int64) error {
	h := w.digest
	if w.random.Load() || w.off != size {
		h = newDigester(w.key)
		if _, err := hashBlob(ctx, w.f, size, h, nil); err != nil {
			return err
		}
	}
	if !hasDigest(h, w.key) {
		return &CorruptError{Kind: w.kind, Key: w.key, Tier: w.c.dir, Offset: -1, Err: errOther}
	}
	return nil
}

func (w *Writer) writeTail(ctx context.Context, e *Entry, meta []byte) error {
	sums := make([]byte, disk.Chunks(e.size)*sumSize)
	_, err := hashChunks(ctx, w.f, e.size, 0, disk.Chunks(e.size), func(chunk int64, sum [sha256.Size]byte) error {
		copy(sums[chunk*sumSize:], sum[:])
		return nil
	})
	if err != nil {
		return err
	}
	// The caller may change meta later; the entry is immutable.
	e.meta, e.sums = append([]byte(nil), meta...), sums
	b := bufio.NewWriterSize(io.NewOffsetWriter(writerAt(w.writeAt), e.size), 1<<16)
	err = disk.WriteTail(b, disk.Footer{Kind: string(w.kind), Key: w.key, Size: e.size}, disk.Tail{Meta: e.meta, Sums: sums})
	if err != nil {
		return err
	}
	return b.Flush()
}

type writerAt func(p []byte, off int64) (int, error)

func (f writerAt) WriteAt(p []byte, off int64) (int, error) { return f(p, off) }

// finish hears of all that can still go wrong with the file, and opens it again for reading only.
func (w *Writer) finish(e *Entry) error {
	s := w.c.steps
	if err := s.do("chmod", w.temp, func() error { return w.f.Chmod(w.c.fileMode) }); err != nil {
		return err
	}
	if e.durable {
		if err := s.do("sync", w.temp, w.f.Sync); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(w.temp, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return err
	}
	if err := sameFile(f, w.f); err != nil {
		f.Close()
		return err
	}
	if err := s.do("close", w.temp, w.f.Close); err != nil {
		f.Close()
		return err
	}
	e.f = f
	return nil
}

func sameFile(a, b *os.File) error {
	ai, err := a.Stat()
	if err != nil {
		return err
	}
	bi, err := b.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(ai, bi) {
		return &fs.PathError{Op: "open", Path: a.Name(), Err: errors.New("somebody replaced the temporary file")}
	}
	return nil
}

// publish gives the entry its name, unless somebody else's has it. Names are never replaced: a node that has
// the old file open would lose it on NFS.
func (w *Writer) publish(e *Entry) error {
	s := w.c.steps
	err := s.do("link", e.path, func() error { return os.Link(w.temp, e.path) })
	if err != nil && noLinks(err) {
		return w.publishByRename(e)
	}
	won := err == nil
	if errors.Is(err, fs.ErrExist) {
		won = linked(w.temp, e.path) // the answer to our own request, sent twice, on NFS
		err = nil
	}
	if err != nil {
		return err
	}
	// It would be gathered up later as the leftover of a dead process.
	_ = w.removeTemp()
	if won {
		w.announce(e)
	}
	return nil
}

// publishByRename is for file systems without hard links. Between looking and renaming somebody else's entry
// may be replaced, by equal bytes.
func (w *Writer) publishByRename(e *Entry) error {
	if _, err := os.Lstat(e.path); err == nil {
		_ = w.removeTemp()
		return nil
	}
	if err := w.c.steps.do("rename", w.temp, func() error { return os.Rename(w.temp, e.path) }); err != nil {
		return err
	}
	w.announce(e)
	return nil
}

// announce makes the name durable and notes that the data has been verified. Only a miss can come of its failing.
func (w *Writer) announce(e *Entry) {
	if e.durable {
		if err := w.c.steps.do("syncdir", w.dir, func() error { return syncDir(w.dir) }); err != nil {
			w.c.opts.Logger.Debug("cache: directory not synced", "path", w.dir, "error", err)
		}
	}
	info, err := e.f.Stat() // the link has changed the ctime
	if err != nil {
		return
	}
	e.id = identify(info)
	m := mark{id: e.id, verified: time.Now()}
	if !e.durable {
		m.boot = w.c.host.boot
	}
	if e.id == (identity{}) {
		m = mark{}
	}
	w.c.writeMark(w.dir, w.key, m, time.Time{})
}

func linked(a, b string) bool {
	ai, aErr := os.Lstat(a)
	bi, bErr := os.Lstat(b)
	return aErr == nil && bErr == nil && os.SameFile(ai, bi)
}

func noLinks(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission)
}
