//go:build !unix

package sifedit

import (
	"io/fs"
	"os"
)

func keepOwner(*os.File, fs.FileInfo) {}
