package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// recentUse is how long an entry is safe after its use: whoever uses it now may need it again in the same run.
	recentUse = time.Hour
	// evictInterval is the time between two looks of Commit at the size of the cache.
	evictInterval = time.Hour
	// orphanAge is when a side file without an entry is removed; those for entries of the site never have one.
	orphanAge = 30 * 24 * time.Hour
)

// Info is what List says of an entry.
type Info struct {
	Kind Kind
	Key  string
	Size int64     // of its file
	Used time.Time // last, give or take an hour
	Tier string    // directory of the cache
	Site bool      // the tier is one of the site's
}

func (i Info) path() string { return filepath.Join(shard(i.Tier, i.Kind, i.Key), i.Key) }

// List lists the entries of all tiers, those used least recently first. It opens none of them.
func (c *Cache) List(ctx context.Context) ([]Info, error) {
	var infos []Info
	for _, tier := range c.tiers() {
		s, err := c.scan(ctx, tier)
		if err != nil {
			return nil, err
		}
		infos = append(infos, s.entries...)
	}
	sortByUse(infos)
	return infos, nil
}

func sortByUse(infos []Info) {
	slices.SortStableFunc(infos, func(a, b Info) int {
		return cmp.Or(a.Used.Compare(b.Used), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
	})
}

// scan is what is in a tier.
type scan struct {
	entries []Info
	others  []leftover // temporary files and side files without an entry
}

type leftover struct {
	path string
	info fs.FileInfo
	side bool
}

func (c *Cache) scan(ctx context.Context, tier string) (*scan, error) {
	s := &scan{}
	for _, kind := range kinds() {
		root := filepath.Join(tier, layout, string(kind))
		for _, name := range namesIn(root, "") {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			c.scanShard(s, tier, kind, filepath.Join(root, name))
		}
	}
	for _, name := range namesIn(filepath.Join(tier, layout, leaseDir), ".") {
		s.addLeftover(filepath.Join(tier, layout, leaseDir, name), false)
	}
	for _, name := range namesIn(filepath.Join(tier, layout), tempPrefix) {
		s.addLeftover(filepath.Join(tier, layout, name), false)
	}
	return s, nil
}

func (c *Cache) scanShard(s *scan, tier string, kind Kind, dir string) {
	entries := make(map[string]int)
	sides := make(map[string]fs.FileInfo)
	for _, name := range namesIn(dir, "") {
		path := filepath.Join(dir, name)
		key, side := strings.CutSuffix(name, usedSuffix)
		switch {
		case strings.HasPrefix(name, tempPrefix), isPart(name):
			s.addLeftover(path, false)
		case checkKey(kind, key) != nil || shard(tier, kind, key) != dir:
		case side:
			if info, err := os.Lstat(path); err == nil {
				sides[key] = info
			}
		default:
			info, err := os.Lstat(path)
			if err == nil && info.Mode().IsRegular() {
				entries[key] = len(s.entries)
				s.entries = append(s.entries, Info{
					Kind: kind, Key: key, Size: info.Size(), Used: info.ModTime(), Tier: tier, Site: tier != c.dir,
				})
			}
		}
	}
	for key, info := range sides {
		if i, ok := entries[key]; !ok {
			s.others = append(s.others, leftover{filepath.Join(dir, key+usedSuffix), info, true})
		} else if s.entries[i].Used.Before(info.ModTime()) {
			s.entries[i].Used = info.ModTime()
		}
	}
}

func (s *scan) addLeftover(path string, side bool) {
	if info, err := os.Lstat(path); err == nil {
		s.others = append(s.others, leftover{path, info, side})
	}
}

// CleanOptions says what Clean removes. A nil *CleanOptions and the zero value mean the same.
type CleanOptions struct {
	// MaxSize is how many bytes to keep. 0 is the cache's own limit, negative is no limit.
	MaxSize int64
	// MaxAge is how long ago the last use of what is kept may be. 0 is no limit.
	MaxAge time.Duration
	// All removes every entry, even one that was used in the last hour.
	All bool
	// DryRun removes nothing.
	DryRun bool
}

// CleanResult is what Clean has removed, or would have.
type CleanResult struct {
	Removed   []Info
	Freed     int64 // bytes, of entries
	Kept      int
	KeptSize  int64
	Leftovers int // files of writers that are gone
}

// Clean removes entries of the own tier, those used least recently first, until the rest is within both limits.
// What was used in the last hour stays, unless All is set. Files that dead processes left are removed in any
// case, once it is certain that they are dead or a day has passed; the beginning of a blob that somebody may go
// on with after three days, or when there is too much and an hour has passed. Whoever has an entry open keeps it.
//
// After an error the result says what was done.
func (c *Cache) Clean(ctx context.Context, opts *CleanOptions) (*CleanResult, error) {
	var o CleanOptions
	if opts != nil {
		o = *opts
	}
	if o.MaxSize == 0 {
		o.MaxSize = c.opts.MaxSize
	}
	s, err := c.scan(ctx, c.dir)
	if err != nil {
		return nil, err
	}
	result := &CleanResult{Kept: len(s.entries)}
	for _, e := range s.entries {
		result.KeptSize += e.Size
	}
	if len(s.entries)+len(s.others) == 0 {
		return result, nil
	}
	now, err := c.serverTime(filepath.Join(c.dir, layout))
	if err != nil {
		now = time.Now()
	}
	sortByUse(s.entries)
	var errs []error
	for _, e := range s.entries {
		if err := ctx.Err(); err != nil {
			return result, err
		}
		if !o.wants(e, now, result.KeptSize) || !o.All && c.usedSince(e) {
			continue
		}
		if !o.DryRun {
			if err := c.remove(e.path()); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		result.Removed = append(result.Removed, e)
		result.Freed += e.Size
		result.Kept--
		result.KeptSize -= e.Size
	}
	result.Leftovers = c.removeLeftovers(s.others, now, o, result.KeptSize)
	return result, errors.Join(errs...)
}

// wants reports whether an entry goes, if size bytes are there now.
func (o CleanOptions) wants(e Info, now time.Time, size int64) bool {
	age := now.Sub(e.Used)
	switch {
	case o.All:
		return true
	case age < recentUse:
		return false
	}
	return o.MaxSize >= 0 && size > o.MaxSize || o.MaxAge > 0 && age > o.MaxAge
}

// usedSince reports whether somebody has used an entry since it was listed.
func (c *Cache) usedSince(e Info) bool {
	info, err := os.Lstat(e.path() + usedSuffix)
	return err == nil && info.ModTime().After(e.Used)
}

// removeLeftovers removes what nobody will come back for. Size is that of the entries: beginnings of blobs that nobody goes on with
// are the first to go when there is too much.
func (c *Cache) removeLeftovers(others []leftover, now time.Time, o CleanOptions, size int64) int {
	n := 0
	for _, l := range others {
		size += l.info.Size()
	}
	for _, l := range others {
		age := now.Sub(l.info.ModTime())
		var dead bool
		switch name := filepath.Base(l.path); {
		case l.side:
			dead = o.All || age > orphanAge
		case isPart(name):
			dead = o.All || age > partAge || age > recentUse && o.MaxSize >= 0 && size > o.MaxSize
		case strings.HasPrefix(name, tempPrefix):
			dead = age > leftoverAge || c.deadTemp(name)
		default:
			dead = age > leftoverAge || c.deadLease(l.path)
		}
		if !dead || l.info.IsDir() {
			continue
		}
		if !o.DryRun && c.steps.do("remove", l.path, func() error { return os.Remove(l.path) }) != nil {
			continue
		}
		n++
		size -= l.info.Size()
	}
	return n
}

func (c *Cache) deadLease(path string) bool {
	l := c.newLease("")
	stale, err := l.look(path)
	return err == nil && stale
}

// evict cleans up after a commit, if nobody has in the last hour.
func (c *Cache) evict(ctx context.Context) {
	if c.opts.MaxSize < 0 || !c.evictionDue() {
		return
	}
	result, err := c.Clean(ctx, nil)
	if err != nil {
		c.opts.Logger.Debug("cache: cleaning", "error", err)
		return
	}
	if len(result.Removed) > 0 {
		c.opts.Logger.Debug("cache: cleaned", "entries", len(result.Removed), "bytes", result.Freed)
	}
}

// evictionDue reports whether this process is the one to clean, and notes so in a stamp file. Of several that
// look at once each may be.
func (c *Cache) evictionDue() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Before(c.nextEvicted) {
		return false
	}
	c.nextEvicted = now.Add(evictInterval)
	dir := filepath.Join(c.dir, layout)
	info, err := os.Lstat(filepath.Join(dir, stampName))
	if err == nil {
		server, err := c.serverTime(dir)
		if err != nil {
			return false
		}
		if age := server.Sub(info.ModTime()); age >= 0 && age < evictInterval {
			c.nextEvicted = now.Add(evictInterval - age)
			return false
		}
	}
	if err := c.replaceFile(dir, stampName, fmt.Sprintln("hpcimg"), time.Time{}); err != nil {
		c.opts.Logger.Debug("cache: stamp not written", "error", err)
		return false
	}
	return true
}
