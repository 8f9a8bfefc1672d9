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
