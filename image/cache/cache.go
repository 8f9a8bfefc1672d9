package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"
)

// Kind is what an entry holds.
type Kind string

// The kinds of entries.
const (
	KindBlob    Kind = "blob"    // a blob of a registry, under its digest
	KindIndex   Kind = "index"   // the index of a layer
	KindSegment Kind = "segment" // compressed units of a layer
)

// Options says how a cache is opened. A nil *Options and the zero value mean the same.
type Options struct {
	// Site are directories of caches that are asked after the own one and never written to.
	Site []string
	// Owners are users whose files are trusted, besides root and oneself.
	Owners []uint32
	// VerifyAge is how long a verification of data is good for; 0 is 7 days, negative is never.
	VerifyAge time.Duration
	// MaxSize is how many bytes Commit lets the cache grow to; 0 is 50 GiB, negative is any number.
	MaxSize int64
	// Logger hears of damaged entries and of what had to be done without; nil is nobody.
	Logger *slog.Logger
}

// Cache is a store of entries. It is safe for concurrent use.
type Cache struct{ dir string }

// Open opens the cache in dir, which is made if need be.
func Open(dir string, opts *Options) (*Cache, error) { return nil, errors.ErrUnsupported }

// Dir returns the directory of the cache.
func (c *Cache) Dir() string { return c.dir }

// Get opens an entry. A miss of any sort is fs.ErrNotExist.
func (c *Cache) Get(ctx context.Context, kind Kind, key string) (*Entry, error) {
	return nil, fs.ErrNotExist
}

// Keys lists the keys of all tiers that begin with prefix, which has at least 8 characters, in order.
func (c *Cache) Keys(ctx context.Context, kind Kind, prefix string) ([]string, error) {
	return nil, nil
}

// Create begins a new entry.
func (c *Cache) Create(kind Kind, key string) (*Writer, error) { return nil, errors.ErrUnsupported }

// Remove deletes an entry of the own tier.
func (c *Cache) Remove(kind Kind, key string) error { return errors.ErrUnsupported }

// Once lets one caller of many do some work. It returns nil, nil as soon as ready is true, or a release function when this caller is to do the work.
func (c *Cache) Once(ctx context.Context, name string, ready func() bool) (release func(), err error) {
	return func() {}, nil
}

// List lists the entries of all tiers.
func (c *Cache) List(ctx context.Context) ([]Info, error) { return nil, nil }

// Clean removes what was used least recently.
func (c *Cache) Clean(ctx context.Context, opts *CleanOptions) (*CleanResult, error) {
	return &CleanResult{}, nil
}

// Verify reads all entries, whatever has been verified before.
func (c *Cache) Verify(ctx context.Context, progress func(done, total int64)) (*VerifyResult, error) {
	return &VerifyResult{}, nil
}

// Entry is an open entry.
type Entry struct{ meta []byte }

// Size returns the size of the data.
func (e *Entry) Size() int64 { return 0 }

// ReadAt reads data.
func (e *Entry) ReadAt(p []byte, off int64) (int, error) { return 0, errors.ErrUnsupported }

// Meta returns the metadata, which must not be changed.
func (e *Entry) Meta() []byte { return e.meta }

// File returns the open file; the data stands at its offset 0.
func (e *Entry) File() *os.File { return nil }

// Verify checks all of the data.
func (e *Entry) Verify(ctx context.Context) error { return errors.ErrUnsupported }

// VerifyRange checks the chunks that hold n bytes of data from off.
func (e *Entry) VerifyRange(ctx context.Context, off, n int64) error { return errors.ErrUnsupported }

// Close closes the entry.
func (e *Entry) Close() error { return nil }

// Writer is an entry in the making.
type Writer struct{ f *os.File }

// Write appends data.
func (w *Writer) Write(p []byte) (int, error) { return 0, errors.ErrUnsupported }

// WriteAt writes data.
func (w *Writer) WriteAt(p []byte, off int64) (int, error) { return 0, errors.ErrUnsupported }

// ReadAt reads data that was written.
func (w *Writer) ReadAt(p []byte, off int64) (int, error) { return 0, errors.ErrUnsupported }

// File returns the file that data is written to, from its offset 0.
func (w *Writer) File() *os.File { return w.f }

// Commit publishes the entry and returns it open.
func (w *Writer) Commit(ctx context.Context, size int64, meta []byte) (*Entry, error) {
	return nil, errors.ErrUnsupported
}

// Abort removes what was written. After Commit or another Abort it does nothing.
func (w *Writer) Abort() error { return nil }

// Info is what List says of an entry.
type Info struct {
	Kind Kind
	Key  string
	Size int64     // of its file
	Used time.Time // last
	Tier string    // the directory of the cache that it is in
	Site bool      // the tier is not the own one
}

// CleanOptions says what Clean removes. A nil *CleanOptions and the zero value mean the same.
type CleanOptions struct {
	MaxSize int64         // bytes to keep at most; 0 is the cache's own limit, negative is any number
	MaxAge  time.Duration // time since the last use; 0 is any
	All     bool          // everything, even what is in use
	DryRun  bool          // remove nothing
}

// CleanResult is what Clean removed, or would have.
type CleanResult struct {
	Removed   []Info
	Freed     int64 // bytes, of entries
	Kept      int
	KeptSize  int64
	Leftovers int // temporary files and leases of dead processes
}

// VerifyResult is what Verify found.
type VerifyResult struct {
	Entries int
	Size    int64
	Corrupt []*CorruptError
}

// CorruptError is an entry whose contents are not what they should be.
type CorruptError struct {
	Kind   Kind
	Key    string
	Tier   string
	Offset int64
	Err    error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("cache: %s %s at %d: %v", e.Kind, e.Key, e.Offset, e.Err)
}

// Unwrap returns the cause.
func (e *CorruptError) Unwrap() error { return e.Err }
