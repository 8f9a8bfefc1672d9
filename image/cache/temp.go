package cache

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	tempPrefix   = ".part-"
	tempAttempts = 16
	// leftoverAge is when a temporary file or a lease of somebody whom we cannot ask belongs to nobody.
	leftoverAge = 24 * time.Hour
)

// host is who we are among the writers of a cache.
type host struct {
	tag  string // of this boot and namespace of process ids: where a pid means something
	boot string // "" if unknown
	pid  int
}

func thisHost() host {
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	boot := bootID()
	sum := sha256.Sum256([]byte(boot + "\n" + pidNamespace()))
	return host{
		tag:  hostCharacters(name) + "." + hex.EncodeToString(sum[:4]),
		boot: boot,
		pid:  os.Getpid(),
	}
}

// hostCharacters makes a name of a host fit to be a part of a file's.
func hostCharacters(name string) string {
	return strings.Map(func(r rune) rune {
		if (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '.' {
			return '_'
		}
		return r
	}, name[:min(len(name), 40)])
}

// createTemp makes a temporary file beside what it will become: .part-<name>-<host>-<pid>-<random>. Never
// O_TMPFILE, which network file systems lack.
func (c *Cache) createTemp(dir, name string) (f *os.File, path string, err error) {
	for range tempAttempts {
		path = filepath.Join(dir, c.tempName(name))
		err = c.steps.do("create", path, func() (err error) {
			f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|openFlags, 0o600)
			return err
		})
		if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	if err != nil {
		return nil, "", err
	}
	return f, path, nil
}

func (c *Cache) tempName(name string) string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%s%s-%s-%d-%x", tempPrefix, name[:min(len(name), 12)], c.host.tag, c.host.pid, b)
}

// deadTemp reports whether a temporary file's name is that of a process of this host that is gone. Of other
// hosts' it cannot know.
func (c *Cache) deadTemp(name string) bool {
	parts := strings.Split(name, "-")
	if len(parts) < 4 || parts[len(parts)-3] != c.host.tag {
		return false
	}
	pid, err := strconv.Atoi(parts[len(parts)-2])
	return err == nil && pid > 0 && !alive(pid, "")
}

// serverTime returns what time it is for whoever keeps the files, whose clock sets their times. It differs from
// ours on a network file system.
func (c *Cache) serverTime(dir string) (time.Time, error) {
	f, path, err := c.createTemp(dir, "time")
	if err != nil {
		return time.Time{}, err
	}
	info, err := f.Stat()
	f.Close()
	_ = c.steps.do("remove", path, func() error { return os.Remove(path) })
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}
