package distribution

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
)

const (
	// rangesFrom is how large a blob is that is worth several requests at once.
	rangesFrom = 64 << 20
	// rangeSize is what one request asks for, and keeps in memory until its turn comes.
	rangeSize = 8 << 20
	maxRanges = 16
)

// blobInRanges is BlobFrom by several requests at a time, each for a range. A registry that does not know ranges shows with the first one, and
// the blob is then read from that answer.
func (r *Repository) blobInRanges(ctx context.Context, d digest.Digest, size, off int64, n int) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	first, err := r.blobRange(ctx, d, size, off, off+rangeSize)
	if err != nil {
		cancel()
		return nil, err
	}
	b := &rangedBlob{repo: r, ctx: ctx, cancel: cancel, digest: d, size: size, off: off, body: first}
	if !first.unranged {
		b.asked = off + rangeSize
		for range min(n, maxRanges) - 1 {
			b.ask()
		}
	}
	return b, nil
}

// rangedBlob passes on one range after the other.
type rangedBlob struct {
	repo   *Repository
	ctx    context.Context //nolint:containedctx // of BlobFrom, for the requests that Read makes
	cancel context.CancelFunc
	digest digest.Digest
	size   int64

	mu    sync.Mutex // of what follows: Close waits for Read
	off   int64
	body  io.ReadCloser // of what is read at the moment: the first range, or the rest in one piece
	data  []byte        // or what is left of a range that has come
	asked int64         // up to where ranges have been asked for; 0 if none
	next  []chan piece  // those on their way, in order
}

// piece is a range that has come, or has not.
type piece struct {
	data []byte
	err  error
}

// ask sends for the next range.
func (b *rangedBlob) ask() {
	from, to := b.asked, min(b.asked+rangeSize, b.size)
	if from >= to {
		return
	}
	b.asked = to
	c := make(chan piece, 1)
	b.next = append(b.next, c)
	go func() {
		data, err := b.repo.readRange(b.ctx, b.digest, b.size, from, to)
		c <- piece{data, err}
	}()
}

var errNoRanges = errors.New("ranges are not known here")

func (r *Repository) readRange(ctx context.Context, d digest.Digest, size, from, to int64) ([]byte, error) {
	b, err := r.blobRange(ctx, d, size, from, to)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if b.unranged {
		return nil, errNoRanges
	}
	data := make([]byte, to-from)
	if _, err := io.ReadFull(b, data); err != nil {
		return nil, err
	}
	return data, nil
}

func (b *rangedBlob) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case len(p) == 0:
			return 0, nil
		case b.off >= b.size:
			return 0, io.EOF
		case len(b.data) > 0:
			n := copy(p, b.data)
			b.data = b.data[n:]
			b.off += int64(n)
			return n, nil
		case b.body != nil:
			n, err := b.body.Read(p)
			b.off += int64(n)
			if err != io.EOF || b.off >= b.size || b.asked == 0 {
				return n, err
			}
			_ = b.body.Close()
			b.body = nil
			if n > 0 {
				return n, nil
			}
		default:
			if err := b.advance(); err != nil {
				return 0, err
			}
		}
	}
}

// advance waits for the next range. If it does not come, the rest is read in one piece, with all patience.
func (b *rangedBlob) advance() error {
	var p piece
	select {
	case p = <-b.next[0]:
	case <-b.ctx.Done():
		return b.repo.newError("GET", "blob", b.ctx.Err())
	}
	b.next = b.next[1:]
	if p.err == nil {
		b.data = p.data
		b.ask()
		return nil
	}
	b.repo.session.config.Logger.DebugContext(b.ctx, "no more ranges side by side", "host", b.repo.host, "digest", b.digest, "error", p.err)
	b.next, b.asked = nil, 0
	body, err := b.repo.blobRange(b.ctx, b.digest, b.size, b.off, b.size)
	if err != nil {
		return err
	}
	b.body = body
	return nil
}

func (b *rangedBlob) Close() error {
	b.cancel()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.body != nil {
		return b.body.Close()
	}
	return nil
}
