//go:build !linux

package convert

import "os"

func cloneRange(*os.File, int64, *os.File, int64, int64) bool { return false }

func copyPart(dst *os.File, to int64, src *os.File, from, n int64) error {
	return copyThrough(dst, to, src, from, n)
}
