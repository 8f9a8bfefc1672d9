//go:build !linux && !darwin

package convert

import "errors"

var errFull = errors.New("disk full")

func freeSpace(string) int64 { return -1 }

func sameFileSystem(a, b string) bool { return a == b }

func isFull(error) bool { return false }
