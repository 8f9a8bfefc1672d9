//go:build !unix

package sifedit

import (
	"io/fs"
	"os"

	"hpcimg/internal/atomicfile"
)

func keepAccess(dst *atomicfile.File, _ *os.File, info fs.FileInfo) { dst.SetMode(info.Mode().Perm()) }
