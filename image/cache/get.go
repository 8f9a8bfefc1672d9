package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"hpcimg/image/cache/internal/disk"
)

// Get opens an entry and checks everything of it but its data, for which there is [Entry.Verify]. The caller closes it.
//
// A miss of any sort is fs.ErrNotExist: no such entry, a damaged or short one, one that belongs to an untrusted
// user or that others may write to, an error of the file system. A damaged entry of the own tier is removed.
// The other errors are those of the context, and fs.ErrInvalid for what is no key.
func (c *Cache) Get(ctx context.Context, kind Kind, key string) (*Entry, error) {
	if err := checkKey(kind, key); err != nil {
		return nil, err
	}
	for i, tier := range c.tiers() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e, err := c.open(tier, kind, key)
		if errors.Is(err, syscall.ESTALE) {
			e, err = c.open(tier, kind, key)
		}
		if err == nil {
			c.markUsed(e)
			return e, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			c.opts.Logger.Debug("cache: entry passed over", "kind", kind, "key", key, "tier", tier, "error", err, "site", i > 0)
		}
	}
	return nil, &fs.PathError{Op: "cache: get", Path: string(kind) + "/" + key, Err: fs.ErrNotExist}
}

// open opens an entry of one tier. An error that is errDamaged says that it is of no use, and that it has been
// removed if it was ours to remove.
func (c *Cache) open(tier string, kind Kind, key string) (*Entry, error) {
	dir := shard(tier, kind, key)
	path := filepath.Join(dir, key)
	f, info, err := c.openFile(path)
	if errors.Is(err, fs.ErrNotExist) && !c.local {
		// On NFS, that a name is missing is remembered for a minute. Opening its directory asks again.
		if d, dirErr := os.Open(dir); dirErr == nil {
			d.Close()
			f, info, err = c.openFile(path)
		}
	}
	if err == nil {
		e := &Entry{c: c, kind: kind, key: key, tier: tier, path: path, f: f, size: info.Size()}
		if err = c.readTail(e, info); err == nil {
			return e, nil
		}
		defer f.Close() // its inode is not to be another file's by the time that it is compared
	}
	if errors.Is(err, errDamaged) {
		c.discard(tier, path, info, err)
	}
	return nil, err
}

// openFile opens a file that only those who are trusted could have written. It neither follows a link nor waits for the
// other end of a pipe. The information may be there in spite of an error.
func (c *Cache) openFile(path string) (*os.File, fs.FileInfo, error) {
	var f *os.File
	err := c.steps.do("open", path, func() (err error) {
		f, err = os.OpenFile(path, os.O_RDONLY|openFlags, 0)
		return err
	})
	if err != nil {
		if info, statErr := os.Lstat(path); statErr == nil && !info.Mode().IsRegular() {
			return nil, info, fmt.Errorf("%w: not a regular file: %w", errDamaged, err)
		}
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	uid, known := owner(info)
	switch {
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%w: not a regular file", errDamaged)
	case known && !c.trusts(uid):
		err = fmt.Errorf("%w: it belongs to user %d, who is not trusted", errDamaged, uid)
	case known && info.Mode().Perm()&writableByOthers != 0:
		err = fmt.Errorf("%w: others may write to it (mode %04o)", errDamaged, info.Mode().Perm())
	}
	if err != nil {
		f.Close()
		return nil, info, err
	}
	return f, info, nil
}

// readTail reads what stands behind the data and checks it. A blob has nothing there.
func (c *Cache) readTail(e *Entry, info fs.FileInfo) error {
	e.id = identify(info)
	if e.kind == KindBlob {
		return nil
	}
	size := info.Size()
	if size < disk.FooterSize {
		return fmt.Errorf("%w: %d bytes", errDamaged, size)
	}
	var b [disk.FooterSize]byte
	if err := c.readAt(e.f, b[:], size-disk.FooterSize); err != nil {
		return err
	}
	footer, err := disk.ParseFooter(b[:], size)
	if err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	if footer.Kind != string(e.kind) || footer.Key != e.key {
		return fmt.Errorf("%w: this is %s %q", errDamaged, footer.Kind, footer.Key)
	}
	tail := make([]byte, footer.TailSize()) // no more than the file has
	if err := c.readAt(e.f, tail, footer.Size); err != nil {
		return err
	}
	t, err := disk.ParseTail(footer, tail)
	if err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	e.size, e.meta, e.sums = footer.Size, t.Meta, t.Sums
	return nil
}

// readAt fills p. An end of the file that comes early is damage, any other error may pass.
func (c *Cache) readAt(f *os.File, p []byte, off int64) error {
	err := c.steps.do("read", f.Name(), func() error {
		_, err := f.ReadAt(p, off)
		return err
	})
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", errDamaged, io.ErrUnexpectedEOF)
	}
	return err
}

// discard removes an entry that is of no use from the own tier, unless its name has come to stand for another file.
func (c *Cache) discard(tier, path string, info fs.FileInfo, why error) {
	if tier != c.dir {
		c.opts.Logger.Warn("cache: damaged entry of the site", "path", path, "error", why)
		return
	}
	now, err := os.Lstat(path)
	if err != nil || info == nil || !os.SameFile(info, now) || now.IsDir() {
		return
	}
	c.opts.Logger.Warn("cache: damaged entry removed", "path", path, "error", why)
	_ = c.steps.do("remove", path, func() error { return os.Remove(path) })
	_ = c.steps.do("remove", path+usedSuffix, func() error { return os.Remove(path + usedSuffix) })
}

// Keys lists the keys of all tiers that begin with prefix, in order. A prefix has at least 8 characters.
func (c *Cache) Keys(ctx context.Context, kind Kind, prefix string) ([]string, error) {
	if !slices.Contains(kinds(), kind) || len(prefix) < minPrefix || !keyCharacters(prefix) {
		return nil, fmt.Errorf("cache: prefix %q of a %s: not %d characters of 0-9, a-z and -: %w", prefix, kind, minPrefix, fs.ErrInvalid)
	}
	var keys []string
	for _, tier := range c.tiers() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		root := filepath.Join(tier, layout, string(kind))
		shards := []string{prefix[:min(shardLen(kind), len(prefix))]}
		if len(prefix) < shardLen(kind) {
			shards = namesIn(root, prefix)
		}
		for _, s := range shards {
			for _, name := range namesIn(filepath.Join(root, s), prefix) {
				if checkKey(kind, name) == nil && strings.HasPrefix(name, s) {
					keys = append(keys, name)
				}
			}
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys), nil
}

// namesIn lists what is in dir with a prefix; nothing if it cannot be read.
func namesIn(dir, prefix string) []string {
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names
}

// Remove deletes an entry of the own tier. That it is not there is no error. Whoever has it open keeps it.
func (c *Cache) Remove(kind Kind, key string) error {
	if err := checkKey(kind, key); err != nil {
		return err
	}
	return c.remove(filepath.Join(shard(c.dir, kind, key), key))
}

func (c *Cache) remove(path string) error {
	for _, p := range []string{path, path + usedSuffix} {
		err := c.steps.do("remove", p, func() error { return os.Remove(p) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cache: %w", err)
		}
	}
	return nil
}
