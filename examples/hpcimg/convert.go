package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/sif"
	"hpcimg/squashfs"
)

func newPull(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "pull [flags] [DEST] SRC",
		Short: "Fetch an image and convert it",
		Long: "Fetch an image and convert it to a SIF file or, where DEST says so, to squashfs.\n" +
			"Without DEST the file is called name.tag.sif. An existing file is not replaced without --force.",
		Args: cobra.RangeArgs(1, 2),
	}
	f.addSource(c)
	f.addWrite(c)
	f.addJSON(c)
	f.addPolicy(c)
	f.addSBOM(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		src := args[len(args)-1]
		ref, err := image.ParseReference(src)
		if err != nil {
			return usagef("%w", err)
		}
		dest := ref.FileName(".sif")
		if len(args) == 2 {
			dest = args[0]
		}
		return f.convert(cmd, src, dest)
	}
	return c
}

func newConvert(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "convert [flags] SRC DEST",
		Short: "Make an image of another form from any source",
		Long: "Make an image of any form from one of any other.\n\n" +
			"SRC is an image in layers (docker://, oci:, oci-archive:, docker-archive:, docker-daemon:), oras://, sif:FILE, oci-sif:FILE, squashfs:FILE,\n" +
			"dir:PATH, tar:FILE, or - for a tar stream on standard input; oci-archive:- and docker-archive:- are archives there, compressed or not. A bare\n" +
			"path goes by its content.\n\n" +
			"DEST is sif:FILE, oci-sif:FILE, squashfs:FILE, tar:FILE, dir:PATH, oci:DIR[:TAG], oci-archive:FILE[:TAG] or\n" +
			"docker-archive:FILE[:NAME:TAG]. A bare path goes by its extension: .sif, .oci.sif, .sqfs, .sqsh, .squashfs or .tar. The layers of OCI forms are what --layers says.",
		Args: cobra.ExactArgs(2),
	}
	f.addSource(c)
	f.addWrite(c)
	f.addJSON(c)
	f.addPolicy(c)
	f.addSBOM(c)
	c.RunE = func(cmd *cobra.Command, args []string) error { return f.convert(cmd, args[0], args[1]) }
	return c
}

// convert makes dest from src and prints what came of it.
func (f *flags) convert(cmd *cobra.Command, src, dest string) error {
	opts, err := f.convertOptions()
	if err != nil {
		return err
	}
	// The destination is looked at before the first byte is fetched: nobody
	// waits for a layer to learn of a typing error.
	to, err := parseDestination(dest)
	if err != nil {
		return err
	}
	dest, opts.Form, opts.OCI.Tag = to.path, to.form, to.tag
	if opts.OCI.Layers, err = f.layerForm(); err != nil {
		return err
	}
	if err := to.check(f.force); err != nil {
		return err
	}
	if opts.Cache, err = f.openCache(cmd.ErrOrStderr()); err != nil {
		return err
	}
	input, closer, err := f.input(cmd.Context(), cmd.InOrStdin(), src)
	if err != nil {
		return err
	}
	defer closer.Close()
	opts.Reuse = f.reuse
	named := slices.Clone(f.reuse)
	if info, err := os.Lstat(dest); err == nil && info.Mode().IsRegular() {
		opts.Reuse = append(opts.Reuse, dest)
	}
	if !f.quiet {
		opts.Logger = slog.New(&warnings{w: cmd.ErrOrStderr(), named: named})
	}
	if f.forecast {
		return f.printForecast(cmd, input, dest, opts)
	}
	report, err := f.newReporter(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	opts.Progress = report.Event
	result, err := convert.Convert(cmd.Context(), input, dest, opts)
	report.Close()
	if errors.Is(err, convert.ErrArch) {
		return fmt.Errorf("%w (or give --platform linux/ARCH)", err)
	}
	if err != nil {
		return formError(err)
	}
	if f.sbom {
		if err := f.addSBOMs(cmd.Context(), result.Path); err != nil {
			return fmt.Errorf("%s is there, but: %w", result.Path, err)
		}
	}
	if !f.quiet {
		for _, w := range result.Warnings {
			fmt.Fprintf(cmd.ErrOrStderr(), "hpcimg: warning: %s\n", w)
		}
	}
	out := cmd.OutOrStdout()
	if f.json {
		return printJSON(out, result)
	}
	kept := 0
	for _, l := range result.Layers {
		if l.Index != convert.OriginSource && l.SegmentFrom != convert.OriginSource {
			kept++
		}
	}
	what, entries := "layers", fmt.Sprintf(", %d entries", result.Entries)
	if result.Entries == 0 { // a file that has come as it is
		what, entries = "pieces", ""
	}
	layers := fmt.Sprintf("%d %s", len(result.Layers), what)
	if kept > 0 {
		layers += fmt.Sprintf(" (%d not read again)", kept)
	}
	_, err = fmt.Fprintf(out, "%s: %s, %s%s, %.1f s\n",
		result.Path, byteCount(result.Size), layers, entries, result.Elapsed.Seconds())
	return err
}

// printForecast says what a conversion would do.
func (f *flags) printForecast(cmd *cobra.Command, input *convert.Source, dest string, opts *convert.Options) error {
	plan, err := convert.Plan(cmd.Context(), input, dest, opts)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if f.json {
		return printJSON(out, plan)
	}
	for _, l := range plan.Layers {
		from := string(l.SegmentFrom)
		switch {
		case from == "":
			from = "depends on layers above" // whose contents are not known yet
		case l.SegmentFrom == convert.OriginSource && l.Index != convert.OriginSource:
			from = "source, index from " + string(l.Index)
		}
		if l.Index == convert.OriginSource {
			from = "source"
		}
		name := "all"
		if l.Digest != "" {
			name = shortDigest(l.Digest)
		}
		fmt.Fprintf(out, "%-12s %10s  %s\n", name, byteCount(l.Segment), from)
	}
	about := "about "
	if plan.Exact {
		about = ""
	}
	fmt.Fprintf(out, "to read %s, to compress %s%s, to copy %s\n", byteCount(plan.Download), about, byteCount(plan.Compress), byteCount(plan.Copy))
	for _, s := range plan.Space {
		free := "unknown"
		if s.Free >= 0 {
			free = byteCount(s.Free)
		}
		fmt.Fprintf(out, "in %s: needed %s%s, free %s\n", printable(s.Dir), about, byteCount(s.Need), free)
	}
	return nil
}

func (f *flags) convertOptions() (*convert.Options, error) {
	comp, err := f.compressor()
	if err != nil {
		return nil, err
	}
	epoch, err := f.epoch()
	if err != nil {
		return nil, err
	}
	arch := ""
	if f.platform != "" {
		p, err := image.ParsePlatform(f.platform)
		if err != nil {
			return nil, usagef("--platform: %w", err)
		}
		arch = p.Architecture
	}
	return &convert.Options{
		Compression: comp, Level: f.level, BlockSize: f.blockSize, Workers: f.workers,
		TempDir: f.tmpDir, Force: f.force, Time: epoch, AllRoot: f.allRoot,
		SIF: convert.SIFOptions{Tool: "hpcimg", Version: version, Arch: arch, NoReuse: f.noReuse},
	}, nil
}

// input opens what src names. A bare path goes by its content.
func (f *flags) input(ctx context.Context, stdin io.Reader, src string) (*convert.Source, io.Closer, error) {
	if src == "-" {
		return convert.FromTar(stdin), io.NopCloser(nil), nil
	}
	if path, ok := strings.CutPrefix(src, "dir:"); ok {
		return dirInput(path)
	}
	if path, ok := strings.CutPrefix(src, "tar:"); ok {
		if path == "-" {
			return convert.FromTar(stdin), io.NopCloser(nil), nil
		}
		return tarInput(path)
	}
	for _, prefix := range []string{"sif:", "oci-sif:", "squashfs:"} {
		if path, ok := strings.CutPrefix(src, prefix); ok {
			return f.imageInput(ctx, path, prefix)
		}
	}
	if _, err := image.ParseReference(src); err != nil {
		return f.bareInput(ctx, src, err)
	}
	return f.registryInput(ctx, src)
}

func dirInput(path string) (*convert.Source, io.Closer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if !info.IsDir() {
		return nil, nil, fmt.Errorf("%s: not a directory", path)
	}
	return convert.FromDir(path), io.NopCloser(nil), nil
}

func tarInput(path string) (*convert.Source, io.Closer, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	return convert.FromTar(file), file, nil
}

// bareInput takes a path without a transport; refErr says why it is not a
// reference.
func (f *flags) bareInput(ctx context.Context, path string, refErr error) (*convert.Source, io.Closer, error) {
	info, err := os.Stat(path)
	if err != nil {
		if strings.Contains(path, ":") {
			return nil, nil, usagef("%w", refErr)
		}
		return nil, nil, err
	}
	if info.IsDir() {
		if _, err := os.Stat(filepath.Join(path, "oci-layout")); err == nil {
			return nil, nil, usagef("%s is an OCI image layout: say oci:%s[:TAG]", path, path)
		}
		return dirInput(path)
	}
	for _, prefix := range []string{"sif:", "squashfs:"} {
		source, closer, err := f.imageInput(ctx, path, prefix)
		if err == nil {
			return source, closer, nil
		}
		if !errors.Is(err, sif.ErrFormat) && !errors.Is(err, squashfs.ErrFormat) {
			return nil, nil, err
		}
	}
	if t := archiveKind(path); t != "" {
		opts, err := f.imageOptions()
		if err != nil {
			return nil, nil, err
		}
		img, err := image.OpenReference(ctx, image.Reference{Transport: t, Path: path}, opts)
		if err != nil {
			return nil, nil, err
		}
		return convert.FromImage(img), io.NopCloser(nil), nil
	}
	return tarInput(path)
}

// imageInput opens a SIF or squashfs file.
func (f *flags) imageInput(ctx context.Context, path, prefix string) (*convert.Source, io.Closer, error) {
	if prefix == "squashfs:" {
		r, err := squashfs.Open(path, nil)
		if err != nil {
			return nil, nil, err
		}
		return convert.FromSquashfs(r), r, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	source, err := f.sifInput(ctx, file)
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return source, file, nil
}

// sifInput asks the policies about the open file, and converts that.
func (f *flags) sifInput(ctx context.Context, file *os.File) (*convert.Source, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: file.Name(), Err: errors.New("not a regular file")}
	}
	container, err := sif.NewFile(file, info.Size())
	if err != nil {
		return nil, err
	}
	policies, err := f.policies()
	if err != nil {
		return nil, err
	}
	part := sif.Object{Size: -1} // an OCI-SIF: all of it
	if primary, err := container.Primary(); err == nil {
		part = primary
	}
	if err := f.checkFile(ctx, policies, file, part.Offset, part.Size); err != nil {
		return nil, err
	}
	return convert.FromSIF(container)
}
