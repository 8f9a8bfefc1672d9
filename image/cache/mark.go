package cache

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	markInterval = time.Hour // between two marks of use
	maxMark      = 512

	// unsyncedAge bounds the trust in data that was not synced when it was verified: by then the system has
	// written it, or has failed to.
	unsyncedAge = time.Hour
	// clockSkew is by how much the clocks of two nodes may differ.
	clockSkew = 24 * time.Hour
)

// identity tells a file that has been verified from one that was changed or replaced since. The device is no
// part of it: a mark stands in the same directory as its file, and each NFS client has its own number for it.
// The zero value is unknown.
type identity struct {
	inode        uint64
	size         int64
	mtime, ctime int64 // nanoseconds
}

// mark is what the side file of an entry says; the time of the last use is the side file's own. It never says
// anything that the entry's file itself could be damaged by, and a wrong one costs a verification.
type mark struct {
	id       identity
	verified time.Time // zero: not
	boot     string    // the data was not synced, so the mark is good until this boot ends; "" if it was
}

// encode writes a mark as a line that ends with a checksum, which binds it to the key: side files are not synced.
func (m mark) encode(key string) string {
	verified := int64(0)
	if !m.verified.IsZero() {
		verified = m.verified.Unix()
	}
	boot := m.boot
	if boot == "" {
		boot = "-"
	}
	line := fmt.Sprintf("hpcimg-used 1 %d %d %d %d %d %s", m.id.inode, m.id.size, m.id.mtime, m.id.ctime, verified, boot)
	sum := sha256.Sum256([]byte(line + "\n" + key))
	return fmt.Sprintf("%s %x\n", line, sum[:8])
}

func decodeMark(text, key string) (mark, bool) {
	line, ok := strings.CutSuffix(text, "\n")
	end := strings.LastIndexByte(line, ' ')
	if !ok || end < 0 {
		return mark{}, false
	}
	var (
		m        mark
		verified int64
	)
	n, err := fmt.Sscanf(line[:end], "hpcimg-used 1 %d %d %d %d %d %s", &m.id.inode, &m.id.size, &m.id.mtime, &m.id.ctime, &verified, &m.boot)
	if n != 6 || err != nil {
		return mark{}, false
	}
	if verified != 0 {
		m.verified = time.Unix(verified, 0)
	}
	if m.boot == "-" {
		m.boot = ""
	}
	return m, m.encode(key) == text // so the sum is right, and nothing is written in another way
}

// readMark reads the side file of a key in a directory. If anything is wrong with it, there is none.
func (c *Cache) readMark(dir, key string) (mark, bool) {
	f, _, err := c.openFile(filepath.Join(dir, key+usedSuffix))
	if err != nil {
		return mark{}, false
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxMark))
	if err != nil {
		return mark{}, false
	}
	return decodeMark(string(text), key)
}

// writeMark replaces the side file. A zero time of use is now. The mark is a convenience: an error is a mark less.
func (c *Cache) writeMark(dir, key string, m mark, used time.Time) {
	err := c.replaceFile(dir, key+usedSuffix, m.encode(key), used)
	if err != nil {
		c.opts.Logger.Debug("cache: mark not written", "key", key, "error", err)
	}
}

// replaceFile writes a small file that has no need to survive a power cut.
func (c *Cache) replaceFile(dir, name, text string, mtime time.Time) error {
	f, temp, err := c.createTemp(dir, "mark")
	if err != nil {
		return err
	}
	err = c.steps.do("write", temp, func() error {
		_, err := f.WriteString(text)
		return err
	})
	if err == nil && c.fileMode != 0o400 {
		err = f.Chmod(c.fileMode)
	}
	err = errors.Join(err, c.steps.do("close", temp, f.Close))
	if err == nil && !mtime.IsZero() {
		err = c.steps.do("touch", temp, func() error { return os.Chtimes(temp, mtime, mtime) })
	}
	if err == nil {
		err = c.steps.do("rename", temp, func() error { return os.Rename(temp, filepath.Join(dir, name)) })
	}
	if err != nil {
		_ = c.steps.do("remove", temp, func() error { return os.Remove(temp) })
	}
	return err
}

// markUsed notes, once an hour, that an entry of the own tier is in use.
func (c *Cache) markUsed(e *Entry) {
	if e.tier != c.dir {
		return
	}
	path := e.path + usedSuffix
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		_ = c.steps.do("create", path, func() error {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|openFlags, c.fileMode)
			if err != nil {
				return err // somebody else's may be more than empty
			}
			return f.Close()
		})
	case err == nil && time.Since(info.ModTime()) > markInterval:
		_ = c.steps.do("touch", path, func() error { return touch(path) })
	}
}

// verifiedBefore reports whether a mark says that the data of this very file has been verified, and is still good.
func (c *Cache) verifiedBefore(e *Entry) bool {
	for _, dir := range c.markDirs(e) {
		m, ok := c.readMark(dir, e.key)
		if !ok || e.id == (identity{}) || m.id != e.id {
			continue
		}
		if c.good(m) {
			return true
		}
	}
	return false
}

// markDirs are where marks of an entry may be: with it, and for an entry of the site in the own tier too.
func (c *Cache) markDirs(e *Entry) []string {
	dirs := []string{filepath.Dir(e.path)}
	if e.tier != c.dir {
		dirs = append(dirs, shard(c.dir, e.kind, e.key))
	}
	return dirs
}

func (c *Cache) good(m mark) bool {
	age := time.Since(m.verified)
	if m.verified.IsZero() || c.opts.VerifyAge < 0 || age > c.opts.VerifyAge || age < -clockSkew {
		return false
	}
	return m.boot == "" || c.local && m.boot == c.host.boot && age < unsyncedAge
}

// markVerified notes that the data of an entry has just been verified. It notes nothing if the data may have
// been read from memory only: unsynced data that this system holds is synced first, and for what another system
// holds there is time to write it. A zero time of use is now.
func (c *Cache) markVerified(e *Entry, used time.Time) {
	if e.id == (identity{}) {
		return
	}
	dir := shard(c.dir, e.kind, e.key)
	m, ok := c.readMark(filepath.Dir(e.path), e.key)
	lasting := ok && m.id == e.id && m.boot == ""
	if lasting && e.tier == c.dir && time.Since(m.verified).Abs() < markInterval {
		return
	}
	if !e.durable && !lasting {
		err := c.steps.do("sync", e.path, e.f.Sync)
		age := time.Since(time.Unix(0, max(e.id.mtime, e.id.ctime)))
		if err != nil || !c.local && age < unsyncedAge {
			return
		}
	}
	if e.tier != c.dir && c.mkdir(dir) != nil {
		return
	}
	c.writeMark(dir, e.key, mark{id: e.id, verified: time.Now()}, used)
}
