package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Kind is what an entry holds.
type Kind string

// The kinds of entries.
const (
	// KindBlob is a blob of a registry. Its key is its digest, sha256-<hex> or sha512-<hex>, and its file
	// is the bare blob.
	KindBlob Kind = "blob"
	// KindIndex is what a layer's names, attributes and digests are.
	KindIndex Kind = "index"
	// KindSegment is compressed contents of a layer's files.
	KindSegment Kind = "segment"
	// KindDocument is what registries say: manifests, and which of them a tag names. See PutDocument.
	KindDocument Kind = "document"
)

const (
	defaultMaxSize   = 50 << 30
	defaultVerifyAge = 7 * 24 * time.Hour

	writableByOthers fs.FileMode = 0o022
)

// Options says how a cache is opened. A nil *Options and the zero value mean the same.
type Options struct {
	// Site are directories of caches that are asked after the own one and are never written to. One that
	// does not exist is passed over.
	Site []string
	// Owners are users whose files are trusted, besides root and oneself.
	Owners []uint32
	// VerifyAge is how long data that has been verified is not verified again. 0 is 7 days, negative is no
	// time at all.
	VerifyAge time.Duration
	// MaxSize is how many bytes the cache may hold: once an hour at most, Commit removes what was used least recently
	// until it holds no more. 0 is 50 GiB, negative is no limit.
	MaxSize int64
	// Logger hears of damaged entries and of what had to be done without. Nil is nobody.
	Logger *slog.Logger
}

func (o *Options) withDefaults() Options {
	var opts Options
	if o != nil {
		opts = *o
	}
	opts.Site = slices.Clone(opts.Site)
	opts.Owners = slices.Clone(opts.Owners)
	if opts.VerifyAge == 0 {
		opts.VerifyAge = defaultVerifyAge
	}
	if opts.MaxSize == 0 {
		opts.MaxSize = defaultMaxSize
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return opts
}

// Cache is a store of entries. It is safe for concurrent use and holds nothing open.
type Cache struct {
	dir  string
	site []string
	opts Options
	uid  int

	dirMode, fileMode fs.FileMode // what the mode of dir says of what is below it

	host  host
	local bool // a power cut for the file system is one for us
	steps steps
	times leaseTimes

	mu          sync.Mutex
	nextEvicted time.Time // when Commit looks at the stamp again
}

// Open opens the cache in dir, which it makes, of mode 0700, if it is not there.
//
// The contents of a cache become part of images. So a directory that belongs to an untrusted user, or that
// others may write to, is an *UntrustedError: somebody could plant an entry. Of each file the same is asked
// when it is opened, and one that fails is a miss.
//
// The mode of dir decides who may read what is stored: nobody else if it is 0700, whoever it lets in if it is
// 0750 or 0755. That is how a trusted account fills a directory that others name in Options.Site.
func Open(dir string, opts *Options) (*Cache, error) {
	if dir == "" {
		return nil, fmt.Errorf("cache: no directory: %w", fs.ErrInvalid)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	c := &Cache{dir: dir, opts: opts.withDefaults(), uid: os.Geteuid(), host: thisHost(), times: defaultLeaseTimes()}
	if err := c.makeDir(); err != nil {
		return nil, err
	}
	for _, site := range c.opts.Site {
		if err := c.checkTier(site); err != nil {
			if errors.Is(err, ErrUntrusted) {
				return nil, err
			}
			c.opts.Logger.Debug("cache: site tier passed over", "path", site, "error", err)
			continue
		}
		c.site = append(c.site, site)
	}
	c.local = c.host.boot != "" && localFS(dir)
	return c, nil
}

// Dir returns the directory of the cache.
func (c *Cache) Dir() string { return c.dir }

func (c *Cache) makeDir() error {
	if _, err := os.Stat(c.dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(c.dir, 0o700); err != nil {
			return fmt.Errorf("cache: %w", err)
		}
		// Backup programs know this tag: nothing in here is worth their while.
		tag := "Signature: 8a477f597d28d172789f06886806bc55\n# Directory of hpcimg. All that is in it can be made again.\n"
		_ = os.WriteFile(filepath.Join(c.dir, "CACHEDIR.TAG"), []byte(tag), 0o644)
	}
	if err := c.checkTier(c.dir); err != nil {
		return err
	}
	info, err := os.Stat(c.dir)
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	c.dirMode = 0o700 | info.Mode().Perm()&0o055
	c.fileMode = 0o400 | info.Mode().Perm()&0o044
	return nil
}

// checkTier refuses a directory in which somebody who is not trusted could put a file of ours under another
// name, or a file of another user.
func (c *Cache) checkTier(dir string) error {
	for _, path := range []string{dir, filepath.Join(dir, layout)} {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cache: %w", err)
		}
		if !info.IsDir() {
			return fmt.Errorf("cache: %s is not a directory: %w", path, fs.ErrInvalid)
		}
		uid, known := owner(info)
		if known && (!c.trusts(uid) || info.Mode().Perm()&writableByOthers != 0) {
			return &UntrustedError{Path: path, Owner: uid, Mode: info.Mode()}
		}
	}
	return nil
}

func (c *Cache) trusts(uid uint32) bool {
	return uid == 0 || int(uid) == c.uid || slices.Contains(c.opts.Owners, uid)
}

// tiers are the directories to ask, one's own first.
func (c *Cache) tiers() []string { return append([]string{c.dir}, c.site...) }

// mkdir makes a directory below dir, and those above it, of the mode that dir asks for whatever the umask says.
func (c *Cache) mkdir(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	if parent := filepath.Dir(path); len(parent) > len(c.dir) {
		if err := c.mkdir(parent); err != nil {
			return err
		}
	}
	return c.steps.do("mkdir", path, func() error {
		err := os.Mkdir(path, c.dirMode)
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		if err == nil && c.dirMode != 0o700 {
			err = os.Chmod(path, c.dirMode)
		}
		return err
	})
}
