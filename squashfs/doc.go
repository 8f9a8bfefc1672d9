// Package squashfs writes, reads and checks squashfs 4.0 images.
package squashfs
