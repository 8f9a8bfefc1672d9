package sign

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

// hashObjects makes the digests that claims need, each once, several at a time.
func hashObjects(ctx context.Context, claims []*claim, workers int) (map[sumKey][]byte, error) {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	var mu sync.Mutex
	sums := make(map[sumKey][]byte)
	seen := make(map[sumKey]bool)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for _, c := range claims {
		if c.signature.Err != nil {
			continue
		}
		for _, claimed := range c.sums {
			if seen[claimed.sumKey] {
				continue
			}
			seen[claimed.sumKey] = true
			g.Go(func() error {
				sum, err := claimed.hashAll(ctx)
				mu.Lock()
				defer mu.Unlock()
				sums[claimed.sumKey] = sum
				return err
			})
		}
	}
	return sums, g.Wait()
}

func (c sumClaim) hashAll(ctx context.Context) ([]byte, error) {
	w := c.hash.New()
	var size int64
	for _, o := range c.objects {
		size = max(size, o.Size)
	}
	buf := make([]byte, max(1, min(readSize, size)))
	for _, o := range c.objects {
		// A file that was cut after its size was taken reads as a shorter object, whose digest will not match.
		if err := copyContext(ctx, w, o.Open(), buf); err != nil {
			return nil, fmt.Errorf("sign: object %d: %w", o.ID, err)
		}
	}
	return w.Sum(nil), nil
}

// copyContext is io.CopyBuffer that heeds a context, and that no method of r or w gets round.
func copyContext(ctx context.Context, w io.Writer, r io.Reader, buf []byte) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf)
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
