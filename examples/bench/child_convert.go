package main

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"io/fs"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/image/cache"
	"hpcimg/sif"
	"hpcimg/squashfs"
)

// converted is what childConvert prints.
type converted struct {
	convert.Result
	Bytes int64 `json:"bytes"` // of files in the image; only if asked for
}

// childConvert converts an image as a program does that has our packages.
func childConvert(ctx context.Context, f *flag.FlagSet, args []string, stdout io.Writer) error {
	var w writerFlags
	w.define(f)
	var o convert.Options
	cacheDir := f.String("cache", "", "directory of a cache")
	f.Func("reuse", "an earlier image", func(s string) error { o.Reuse = append(o.Reuse, s); return nil })
	count := f.Bool("count", false, "count the bytes of files")
	if err := w.parse(f, args, 2); err != nil {
		return err
	}
	o.Compression, o.Level, o.Workers = w.opts.Compression, w.opts.Level, w.opts.Workers
	if *cacheDir != "" {
		c, err := cache.Open(*cacheDir, nil)
		if err != nil {
			return err
		}
		o.Cache = c
	}
	img, err := image.Open(ctx, f.Arg(0), nil)
	if err != nil {
		return err
	}
	var made converted
	err = profiled(w.profile, func() error {
		result, err := convert.Convert(ctx, convert.FromImage(img), f.Arg(1), &o)
		if err == nil {
			made.Result = *result
		}
		return err
	})
	if err == nil && *count {
		made.Bytes, err = contents(f.Arg(1))
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(made)
}

// contents adds up the sizes of the files in a SIF, hard links once.
func contents(name string) (sum int64, err error) {
	f, err := sif.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	primary, err := f.Primary()
	if err != nil {
		return 0, err
	}
	r, err := squashfs.NewReader(primary.Open(), primary.Size, nil)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	seen := make(map[uint32]bool)
	err = fs.WalkDir(r, ".", func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if in := info.Sys().(*squashfs.Inode); !seen[in.Number()] {
			seen[in.Number()] = true
			sum += in.Size()
		}
		return nil
	})
	return sum, err
}
