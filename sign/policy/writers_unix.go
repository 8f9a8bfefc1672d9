//go:build unix

package policy

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// checkWriters refuses a file that somebody else can write, and so change after it was looked at.
func (c *check) checkWriters() error {
	if c.rule.AllowWritable {
		return nil
	}
	const others = 0o022
	if mode := c.info.Mode().Perm(); mode&others != 0 {
		return fmt.Errorf("others can write it (mode %#o; chmod go-w, or allow_writable)", mode)
	}
	if s, ok := c.info.Sys().(*syscall.Stat_t); ok && s.Uid != 0 && int(s.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d, who can change it at any time (see allow_writable)", s.Uid)
	}
	return nil
}

// ctime moves with every write, and nobody can set it back.
type ctime struct{ sec, nsec int64 }

func changed(info fs.FileInfo) ctime {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ctime{}
	}
	return changeTime(s)
}
