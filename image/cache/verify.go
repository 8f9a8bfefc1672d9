package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"hpcimg/image/cache/internal/disk"
)

// Verify checks all of the data: a blob against its digest, the others against the SHA-256 of each MiB, several
// at once. It returns at once if that has been done for this very file within Options.VerifyAge. An error is a
// *CorruptError, and the entry is gone from the own tier then; or it is the context's.
func (e *Entry) Verify(ctx context.Context) error {
	if e.verified.Load() {
		return nil
	}
	if e.c.verifiedBefore(e) {
		e.verified.Store(true)
		return nil
	}
	if err := e.verify(ctx, nil); err != nil {
		return err
	}
	e.verified.Store(true)
	e.c.markVerified(e, time.Time{})
	return nil
}

// VerifyRange checks the data from off to before off+n, and what shares a MiB with it; of a blob it checks all.
func (e *Entry) VerifyRange(ctx context.Context, off, n int64) error {
	if off < 0 || n < 0 || off > e.size || n > e.size-off {
		return fmt.Errorf("cache: %d bytes at %d of %d: %w", n, off, e.size, fs.ErrInvalid)
	}
	if e.kind == KindBlob || e.verified.Load() {
		return e.Verify(ctx)
	}
	if n == 0 {
		return nil
	}
	return e.verifyChunks(ctx, off/disk.ChunkSize, disk.Chunks(off+n), nil)
}

// verify reads all of the data. done hears of each piece, from any goroutine.
func (e *Entry) verify(ctx context.Context, done func(n int64)) error {
	if e.kind != KindBlob {
		return e.verifyChunks(ctx, 0, e.chunks(), done)
	}
	h := newDigester(e.key)
	offset, err := hashBlob(ctx, e.f, e.size, h, done)
	if err == nil && hasDigest(h, e.key) {
		return nil
	}
	if err == nil {
		offset, err = -1, errOther
	}
	return e.spoilt(ctx, offset, err)
}

func (e *Entry) verifyChunks(ctx context.Context, first, end int64, done func(n int64)) error {
	at, err := hashChunks(ctx, e.f, e.size, first, end, func(chunk int64, sum [sumSize]byte) error {
		if !bytes.Equal(sum[:], e.sum(chunk)) {
			return errSum
		}
		if done != nil {
			done(min(disk.ChunkSize, e.size-chunk*disk.ChunkSize))
		}
		return nil
	})
	if err == nil {
		return nil
	}
	return e.spoilt(ctx, at.chunk*disk.ChunkSize, err)
}

// spoilt is the end of an entry, unless it is the caller who has had enough.
func (e *Entry) spoilt(ctx context.Context, offset int64, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil && errors.Is(err, ctxErr) {
		return ctxErr
	}
	if errors.Is(err, fs.ErrClosed) {
		return fmt.Errorf("cache: %w", err)
	}
	corrupt := e.corrupt(offset, err)
	if info, statErr := e.f.Stat(); statErr == nil {
		e.c.discard(e.tier, e.path, info, corrupt)
	}
	return corrupt
}

// VerifyResult is what Verify found.
type VerifyResult struct {
	Entries int             // that are as they should be
	Size    int64           // of their data
	Corrupt []*CorruptError // what was not; of the own tier it is gone
}

// progressInterval keeps reports of progress rare enough for a terminal and frequent enough for a person.
const progressInterval = 100 * time.Millisecond

// Verify reads all entries of all tiers, whatever has been verified before, from the disk if the system lets it
// choose. It removes what is damaged from the own tier and says so in its result, not by an error. progress,
// which may be nil, is called with bytes at most ten times a second and once at the end, never concurrently.
func (c *Cache) Verify(ctx context.Context, progress func(done, total int64)) (*VerifyResult, error) {
	infos, err := c.List(ctx)
	if err != nil {
		return nil, err
	}
	var total int64
	for _, info := range infos {
		total += info.Size
	}
	meter := verifyMeter{total: total, report: progress}
	result := &VerifyResult{}
	for _, info := range infos {
		corrupt, err := c.verifyOne(ctx, info, result, &meter)
		if err != nil {
			return result, err
		}
		if corrupt != nil {
			result.Corrupt = append(result.Corrupt, corrupt)
		}
	}
	meter.end()
	return result, nil
}

func (c *Cache) verifyOne(ctx context.Context, info Info, result *VerifyResult, meter *verifyMeter) (*CorruptError, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e, err := c.open(info.Tier, info.Kind, info.Key)
	if errors.Is(err, errDamaged) {
		return &CorruptError{Kind: info.Kind, Key: info.Key, Tier: info.Tier, Offset: -1, Err: err}, nil
	}
	if err != nil {
		c.opts.Logger.Debug("cache: not verified", "kind", info.Kind, "key", info.Key, "tier", info.Tier, "error", err)
		return nil, nil // somebody removed it, or it is not for us to read
	}
	defer e.Close()
	forgetPages(e.f)
	err = e.verify(ctx, meter.add)
	if corrupt, ok := errors.AsType[*CorruptError](err); ok {
		return corrupt, nil
	}
	if err != nil {
		return nil, err
	}
	result.Entries++
	result.Size += e.size
	c.markVerified(e, info.Used) // this is no use
	return nil, nil
}

// verifyMeter adds up what several goroutines have done.
type verifyMeter struct {
	mu          sync.Mutex
	done, total int64
	last        time.Time
	report      func(done, total int64)
}

func (m *verifyMeter) add(n int64) {
	if m.report == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += n
	if now := time.Now(); now.Sub(m.last) >= progressInterval {
		m.last = now
		m.report(min(m.done, m.total), m.total)
	}
}

func (m *verifyMeter) end() {
	if m.report != nil {
		m.report(m.total, m.total)
	}
}
