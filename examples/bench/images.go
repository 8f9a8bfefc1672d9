package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"hpcimg/examples/bench/images"
)

// runImages makes the images that conversions are measured with.
func runImages(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("images", flag.ContinueOnError)
	f.SetOutput(stderr)
	dir := f.String("dir", "", "keep the images in this `directory` (default the user's cache directory)")
	only := f.String("only", strings.Join(images.Names(), ","), "`list` of images to make")
	if err := parse(f, args, 0); err != nil {
		return err
	}
	names, err := imageNames(f.Name(), *only, stderr)
	if err != nil {
		return err
	}
	for _, name := range names {
		layout, err := makeImage(ctx, *dir, name, stderr)
		if err != nil {
			return err
		}
		for _, version := range append(images.Versions(), images.Rebuilt) {
			fmt.Fprintln(stdout, images.Reference(layout, version))
		}
	}
	return nil
}

// makeImage makes an image, unless dir has it, and returns the path of its layout.
func makeImage(ctx context.Context, dir, name string, stderr io.Writer) (layout string, err error) {
	if dir == "" {
		if dir, err = images.DefaultDir(); err != nil {
			return "", err
		}
	}
	return images.Make(ctx, dir, name, stderr)
}

// imageNames checks a list of images.
func imageNames(command, list string, stderr io.Writer) ([]string, error) {
	names := strings.Split(list, ",")
	for _, name := range names {
		if !slices.Contains(images.Names(), name) {
			fmt.Fprintf(stderr, "bench %s: there is no image %q; there are %s\n", command, name, strings.Join(images.Names(), ", "))
			return nil, errUsage
		}
	}
	return names, nil
}
