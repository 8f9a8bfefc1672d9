//go:build !unix

package convert

import "io/fs"

func trusted(fs.FileInfo) bool { return true }
