package cache

import (
	"path/filepath"
	"time"
)

// What tests reach for: the seam of the file system, and what the host would decide.

// SetHook puts a function around every operation on files.
func (c *Cache) SetHook(hook func(op, path string, do func() error) error) { c.steps.hook = hook }

// SetBoot says which boot this is and whether the file system is local to it.
func (c *Cache) SetBoot(boot string, local bool) { c.host.boot, c.local = boot, local }

// SetPID makes the cache leave its traces as another process.
func (c *Cache) SetPID(pid int) { c.host.pid = pid }

// SetHost makes the cache leave its traces as another host.
func (c *Cache) SetHost(tag string) { c.host.tag = tag }

// SetUID makes the cache another user's.
func (c *Cache) SetUID(uid int) { c.uid = uid }

// SetLease changes the tempi of single flight.
func (c *Cache) SetLease(beat, stale, patience time.Duration) {
	c.times.beat, c.times.stale, c.times.patience = beat, stale, patience
}

// Path returns where an entry is, or would be.
func (c *Cache) Path(kind Kind, key string) string {
	return filepath.Join(shard(c.dir, kind, key), key)
}

// LeasePath returns where the lease of a name is.
func (c *Cache) LeasePath(name string) string { return c.newLease(name).path }

// ForgeMark writes a mark that matches the file of an entry as it is now.
func (c *Cache) ForgeMark(e *Entry, verified time.Time, boot string) {
	c.writeMark(shard(c.dir, e.kind, e.key), e.key, mark{id: e.id, verified: verified, boot: boot}, time.Time{})
}

// HasMark reports whether a mark of use says that the entry has been verified, and whether it is bound to a boot.
func (c *Cache) HasMark(kind Kind, key string) (verified, bound bool) {
	m, ok := c.readMark(shard(c.dir, kind, key), key)
	return ok && !m.verified.IsZero(), m.boot != ""
}

// DecodeMark is decodeMark, and encodes again what it accepts.
func DecodeMark(text, key string) (again string, ok bool) {
	m, ok := decodeMark(text, key)
	if !ok {
		return "", false
	}
	return m.encode(key), true
}

// EncodeMark writes a mark.
func EncodeMark(key string, inode uint64, size int64, verified time.Time, boot string) string {
	return mark{id: identity{inode: inode, size: size, mtime: 1, ctime: 2}, verified: verified, boot: boot}.encode(key)
}

// ThisHost returns what leases of this host say.
func ThisHost() string { return thisHost().tag }

// LocalFS is localFS.
func LocalFS(dir string) bool { return localFS(dir) }
