package convert

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

const (
	// maxPlaces bounds how often the same block is looked at in an earlier file: the first block of a segment is seldom twice in one.
	maxPlaces = 16
	// maxNoted bounds how many of its places are remembered, in a file that is full of it.
	maxNoted = 1024

	scanStep = 1 << 20
)

// earlier is a file in which pieces of another may be found, wherever they stand in it. It need not be trusted: what is taken from
// it is compared with its digest afterwards.
type earlier struct {
	file   *os.File
	size   int64
	places map[[sha256.Size]byte][]int64 // of blocks that pieces begin with
}

// openEarlier opens a file, and finds where pieces may begin in it.
func openEarlier(ctx context.Context, path string, list []piece) (*earlier, error) {
	// A pipe would be waited for.
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "reuse", Path: path, Err: fmt.Errorf("%w: not a regular file", fs.ErrInvalid)}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	e := &earlier{file: f, places: make(map[[sha256.Size]byte][]int64)}
	if err := e.scan(ctx, list); err != nil {
		_ = f.Close()
		return nil, err
	}
	return e, nil
}

func (e *earlier) scan(ctx context.Context, list []piece) error {
	info, err := e.file.Stat()
	if err != nil {
		return err
	}
	e.size = info.Size()
	looked := make(map[[sha256.Size]byte]bool)
	for _, p := range list {
		if p.first != nil && p.Size >= dataAlign {
			looked[*p.first] = true
		}
	}
	if len(looked) == 0 {
		return nil
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxReaders)
	for at := int64(0); at < e.size; at += scanStep {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			buf := make([]byte, min(scanStep, e.size-at))
			n, err := e.file.ReadAt(buf, at)
			if err != nil && err != io.EOF {
				return err
			}
			for i := 0; i+dataAlign <= n; i += dataAlign {
				sum := sha256.Sum256(buf[i : i+dataAlign])
				if !looked[sum] {
					continue
				}
				mu.Lock()
				if len(e.places[sum]) < maxNoted {
					e.places[sum] = append(e.places[sum], at+int64(i))
				}
				mu.Unlock()
			}
			return ctx.Err()
		})
	}
	err = g.Wait()
	for _, places := range e.places {
		slices.Sort(places)
	}
	return err
}

// take copies a piece to its place in out if it is in the file. Blocks are shared where the file system can.
func (e *earlier) take(ctx context.Context, p piece, out *os.File) (bool, error) {
	if p.first == nil {
		return false, nil
	}
	places := e.places[*p.first]
	for _, at := range places[:min(len(places), maxPlaces)] {
		if at > e.size-p.Size {
			break
		}
		if !cloneRange(out, p.off, e.file, at, p.Size) {
			err := copyRange(ctx, out, p.off, e.file, at, p.Size, func(int64) {})
			switch {
			case ctx.Err() != nil || isFull(err):
				return false, err
			case err != nil:
				continue
			}
		}
		// What was copied is compared, and not what it was copied from, which somebody may be changing.
		v := p.Digest.Verifier()
		if _, err := io.Copy(v, ctxReads{ctx, io.NewSectionReader(out, p.off, p.Size)}); err != nil {
			return false, err
		}
		if v.Verified() {
			return true, nil
		}
	}
	return false, nil
}
