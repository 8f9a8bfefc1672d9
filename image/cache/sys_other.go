//go:build !linux && !darwin

package cache

import "io/fs"

// identify knows no file here: every verification is done again.
func identify(fs.FileInfo) identity { return identity{} }

func bootID() string { return "" }
