//go:build unix

package sign

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	lockName     = ".hpcimg-lock"
	lockInterval = 50 * time.Millisecond
)

func openNoFollow(path string) (*os.File, error) {
	// Without O_NONBLOCK a planted FIFO would hang us.
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}

// checkOwner refuses what another user could change under our hands.
func checkOwner(path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(stat.Uid) != os.Geteuid() {
		return &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("belongs to user %d: %w", stat.Uid, fs.ErrPermission)}
	}
	return nil
}

func checkMode(path string, info fs.FileInfo, forbidden fs.FileMode) error {
	if mode := info.Mode().Perm(); mode&forbidden != 0 {
		return &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("mode %#o is open to others: %w", mode, fs.ErrPermission)}
	}
	return nil
}

// lockDir locks a key directory against other changes of ours. The lock is on a file in it, since NFS gives exclusive locks only on what is open for
// writing, which a directory never is. Where the file system has no locks (NFS without a lock daemon, Lustre mounted without flock) it
// goes on without: replacing whole files keeps the rings intact, and only a simultaneous change may get lost.
func lockDir(ctx context.Context, path string) (unlock func(), err error) {
	// Never removed: whoever waits for it holds it open.
	f, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	unlock = func() { _ = f.Close() }
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return unlock, nil
		}
		select {
		case <-ctx.Done():
			unlock()
			return nil, ctx.Err()
		case <-time.After(lockInterval):
		}
	}
}
