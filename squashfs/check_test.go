package squashfs_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

func checkImage(t testing.TB, image []byte, opts *squashfs.CheckOptions) *squashfs.CheckReport {
	t.Helper()
	report, err := squashfs.Check(t.Context(), bytes.NewReader(image), int64(len(image)), opts)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestCheckAcceptsReferenceImages(t *testing.T) {
	dir := sourceDir(t)
	for _, args := range []string{
		"-comp gzip", "-comp zstd", "-comp lz4", "-comp xz", "-noI -noD -noF -noX", "-no-fragments",
		"-always-use-fragments", "-no-duplicates", "-no-sparse", "-no-exports", "-b 4096", "-b 1M", "-no-xattrs", "-all-root",
	} {
		t.Run(args, func(t *testing.T) {
			image, err := os.ReadFile(mksquashfs(t, dir, strings.Fields(args)...))
			if err != nil {
				t.Fatal(err)
			}
			report := checkImage(t, image, nil)
			for _, f := range report.Findings {
				t.Errorf("%+v", f)
			}
			if report.Files < 600 || report.Directories != 7 && report.Directories != 6 || report.Blocks == 0 {
				t.Errorf("report %+v", report)
			}
		})
	}
}

func TestCheckTar2sqfsImages(t *testing.T) {
	for _, comp := range []string{"gzip", "zstd", "xz", "lz4"} {
		image, err := os.ReadFile(tar2sqfs(t, readerTree(true), "-c", comp))
		if err != nil {
			t.Fatal(err)
		}
		// tar2sqfs counts all entries of a directory as links.
		report := checkImage(t, image, nil)
		for _, f := range report.Findings {
			if f.Rule != squashfs.RuleLinkCount {
				t.Errorf("%s: %+v", comp, f)
			}
		}
		if !report.OK() {
			t.Errorf("%s: not OK", comp)
		}
	}
}

func TestCheckLimits(t *testing.T) {
	image, err := os.ReadFile(tar2sqfs(t, testtree.Tree{testtree.File("f", 0o644, "x"), testtree.File("g", 0o644, "y")}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = squashfs.Check(t.Context(), bytes.NewReader(image), int64(len(image)), &squashfs.CheckOptions{MaxRecords: 1})
	if !errors.Is(err, squashfs.ErrLimit) {
		t.Errorf("MaxRecords: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = squashfs.Check(ctx, bytes.NewReader(image), int64(len(image)), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// What this package writes, it finds nothing wrong with, and reads back.
func TestCheckAcceptsWriterImages(t *testing.T) {
	tree := readerTreeOf(true, 100)
	for _, comp := range []squashfs.Compression{
		squashfs.CompressionGzip, squashfs.CompressionZstd, squashfs.CompressionLZ4, squashfs.CompressionNone,
	} {
		for _, blockSize := range []int{4096, 131072} {
			var image memory
			w, err := squashfs.NewWriter(&image, &squashfs.WriterOptions{Compression: comp, BlockSize: blockSize})
			if err != nil {
				t.Fatal(err)
			}
			err = w.FromTar(t.Context(), bytes.NewReader(tree.Tar(nil)), nil)
			if err := errors.Join(err, w.Close()); err != nil {
				t.Fatal(err)
			}
			for _, f := range checkImage(t, image.b, nil).Findings {
				t.Errorf("%v, %d: %+v", comp, blockSize, f)
			}
			r, err := squashfs.NewReader(bytes.NewReader(image.b), int64(len(image.b)), nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := testtree.FromFS(r)
			if err != nil {
				t.Fatal(err)
			}
			if diff := testtree.Diff(tree.Listing(), got, nil); diff != "" {
				t.Errorf("%v, %d (-tree +image)\n%s", comp, blockSize, diff)
			}
		}
	}
}
