package atomicfile

import "os"

// CreateNamed is Create on a file system without unnamed files.
func CreateNamed(path string, opts *Options) (*File, error) {
	return create(path, opts, func(string, string) *os.File { return nil })
}
