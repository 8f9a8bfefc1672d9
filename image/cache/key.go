package cache

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"hpcimg/image/cache/internal/disk"
)

const (
	minKey    = 8
	minPrefix = 8

	// version of the layout of directories, and of side files. Programs of another one do not see each
	// other's entries.
	layout     = "v1"
	leaseDir   = "lease"
	stampName  = "cleaned"
	usedSuffix = ".used" // a key has no dot
)

func kinds() []Kind { return []Kind{KindBlob, KindIndex, KindSegment, KindDocument} }

// checkKey refuses what is no key: it becomes the name of a file.
func checkKey(kind Kind, key string) error {
	if !slices.Contains(kinds(), kind) {
		return fmt.Errorf("cache: kind %q: %w", kind, fs.ErrInvalid)
	}
	if len(key) < minKey || len(key) > disk.MaxKey || !keyCharacters(key) {
		return fmt.Errorf("cache: key %q: not %d to %d characters of 0-9, a-z and -: %w", key, minKey, disk.MaxKey, fs.ErrInvalid)
	}
	if kind != KindBlob {
		return nil
	}
	algorithm, hex, _ := strings.Cut(key, "-")
	if size := map[string]int{"sha256": 64, "sha512": 128}[algorithm]; size == 0 || len(hex) != size || strings.Trim(hex, "0123456789abcdef") != "" {
		return fmt.Errorf("cache: blob %q: not sha256-<hex> or sha512-<hex>: %w", key, fs.ErrInvalid)
	}
	return nil
}

func keyCharacters(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '-' {
			return false
		}
	}
	return true
}

// shardLen is how much of a key tells its directory: "ab", or "sha256-ab" of a blob.
func shardLen(kind Kind) int {
	if kind == KindBlob {
		return len("sha256-") + 2
	}
	return 2
}

// shard is the directory of a key: no directory grows long, and it is known from a prefix.
func shard(dir string, kind Kind, key string) string {
	return filepath.Join(dir, layout, string(kind), key[:shardLen(kind)])
}
