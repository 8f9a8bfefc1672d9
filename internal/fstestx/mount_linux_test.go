package fstestx_test

import (
	"os"
	"testing"

	"hpcimg/internal/fstestx"
	"hpcimg/internal/oracle"
)

func TestKernelMount(t *testing.T) {
	oracle.Root(t)
	dir := oracle.KernelMount(t, writeImage(t, 4096))
	fstestx.Test(t, os.DirFS(dir), tree().Listing(), &fstestx.Options{Mounted: true})
}
