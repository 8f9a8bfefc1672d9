//go:build !linux

package cache

import (
	"os"
	"time"
)

// localFS knows no file system here whose unsynced data could be told from synced data later.
func localFS(string) bool { return false }

func pidNamespace() string { return "" }

func startTime(int) string { return "" }

func touch(path string) error {
	now := time.Now()
	return os.Chtimes(path, now, now)
}

func forgetPages(*os.File) {}
