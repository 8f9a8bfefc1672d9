package images

import (
	"archive/tar"
	"context"
)

// Changes adds to tw what change changes in a tree.
func Changes(ctx context.Context, rootfs string, tw *tar.Writer, change func()) error {
	before, err := snapshot(ctx, rootfs)
	if err != nil {
		return err
	}
	change()
	d := differ{rootfs: rootfs, before: before}
	return d.write(ctx, tw)
}
