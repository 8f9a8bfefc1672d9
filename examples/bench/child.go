package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"strings"
	"time"

	"hpcimg/squashfs"
)

// childCommand is the sub-command by which bench starts itself: one job, done
// once, so that the kernel's account of the process is an account of the job.
const childCommand = "child"

func runChild(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	jobs := map[string]func(context.Context, *flag.FlagSet, []string, io.Writer) error{
		"tree": childTree, "write": childWrite, "extract": childExtract, "tables": childTables, "grow": childGrow,
		"convert": childConvert, "start": childStart, "serve": childServe,
	}
	if len(args) == 0 || jobs[args[0]] == nil {
		fmt.Fprint(stderr, usage)
		return errUsage
	}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.SetOutput(stderr)
	return jobs[args[0]](ctx, f, args[1:], stdout)
}

// childTree makes the archive that everything else reads.
func childTree(ctx context.Context, f *flag.FlagSet, args []string, _ io.Writer) (err error) {
	out := f.String("out", "", "archive to write")
	size := f.Int64("size", 0, "bytes of file contents; 0 is all")
	generated := f.Bool("generated", false, "make a tree up")
	if err := f.Parse(args); err != nil {
		return errUsage
	}
	w, err := os.Create(*out)
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, w.Close()) }()
	if *generated {
		return writeGenerated(ctx, w, *size)
	}
	return writeSample(ctx, w, f.Args(), *size)
}

// writerFlags are the options of the jobs that write.
type writerFlags struct {
	opts        squashfs.WriterOptions
	compression string
	profile     string
}

func (w *writerFlags) define(f *flag.FlagSet) {
	f.StringVar(&w.compression, "comp", "gzip", "compressor")
	f.IntVar(&w.opts.Level, "level", 0, "level")
	f.IntVar(&w.opts.Workers, "workers", 0, "workers")
	f.StringVar(&w.profile, "profile", "", "file for a profile of the CPU")
}

func (w *writerFlags) parse(f *flag.FlagSet, args []string, rest int) (err error) {
	if err = parse(f, args, rest); err != nil {
		return err
	}
	w.opts.Compression, err = squashfs.ParseCompression(w.compression)
	return err
}

// profiled runs job and writes a profile of it, if a path is given.
func profiled(path string, job func() error) (err error) {
	if path == "" {
		return job()
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, f.Close()) }()
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return job()
}

func childWrite(ctx context.Context, f *flag.FlagSet, args []string, _ io.Writer) error {
	var w writerFlags
	w.define(f)
	archive := f.String("tar", "", "archive to read")
	dir := f.String("tree", "", "directory to read")
	if err := w.parse(f, args, 1); err != nil {
		return err
	}
	return profiled(w.profile, func() error {
		return writeImage(f.Arg(0), &w.opts, func(w *squashfs.Writer) error {
			if *dir != "" {
				return w.FromDir(ctx, *dir, nil)
			}
			in, err := os.Open(*archive)
			if err != nil {
				return err
			}
			defer in.Close()
			return w.FromTar(ctx, in, nil)
		})
	})
}

// writeImage is squashfs.Create without the wait for the disk that it ends
// with: none of the other programs waits.
func writeImage(path string, opts *squashfs.WriterOptions, fill func(*squashfs.Writer) error) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, f.Close()) }()
	w, err := squashfs.NewWriter(f, opts)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(w), w.Close()); err != nil {
		return err
	}
	return f.Truncate(w.Size())
}

func childExtract(ctx context.Context, f *flag.FlagSet, args []string, _ io.Writer) error {
	workers := f.Int("workers", 0, "workers")
	profile := f.String("profile", "", "file for a profile of the CPU")
	if err := parse(f, args, 2); err != nil {
		return err
	}
	return profiled(*profile, func() error {
		r, err := squashfs.Open(f.Arg(0), nil)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = squashfs.ExtractTo(ctx, r, f.Arg(1), &squashfs.ExtractOptions{Workers: *workers})
		return err
	})
}

// tablesCost is what childTables prints.
type tablesCost struct {
	Add   time.Duration `json:"add_ns"`
	Write time.Duration `json:"write_ns"`
	Wall  time.Duration `json:"wall_ns"` // of Write
	Size  int64         `json:"size"`
}

// childTables writes the tables of many entries, about seven to a directory, to
// a file that has nothing else, and prints what CPU time that took.
func childTables(ctx context.Context, f *flag.FlagSet, args []string, stdout io.Writer) error {
	var w writerFlags
	w.define(f)
	entries := f.Int("entries", 100_000, "entries")
	if err := w.parse(f, args, 1); err != nil {
		return err
	}
	out, err := os.Create(f.Arg(0))
	if err != nil {
		return err
	}
	defer out.Close()
	var c tablesCost
	err = profiled(w.profile, func() error {
		before := selfCPU()
		b, err := squashfs.NewBuilder(&squashfs.BuilderOptions{Compression: w.opts.Compression, Level: w.opts.Level})
		if err != nil {
			return err
		}
		if err := addEntries(b, *entries, w.opts.Compression); err != nil {
			return err
		}
		added, begin := selfCPU(), time.Now()
		c.Size, err = b.WriteTables(ctx, out, tablesStart)
		c.Add, c.Write, c.Wall = added-before, selfCPU()-added, time.Since(begin)
		return err
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(c)
}

// tablesStart is where the contents, of which there are none, end.
const tablesStart = 1 << 30

// addEntries adds directories and files whose contents are somewhere before
// tablesStart.
func addEntries(b *squashfs.Builder, n int, c squashfs.Compression) error {
	const blockSize, spacing = 128 << 10, 9000
	id, err := b.AddPack(&squashfs.Pack{Size: tablesStart - 4096, Compression: c, BlockSize: blockSize}, 4096)
	if err != nil {
		return err
	}
	for i := range n {
		dir := fmt.Sprintf("usr/share/%02d/package-%d", i/7%90, i/7)
		e := squashfs.Entry{Path: dir, Mode: os.ModeDir | 0o755, ModTime: time.Unix(1.6e9+int64(i/7), 0)}
		if i%7 != 0 {
			size := int64(uint32(i) * 2654435761 % (2 * blockSize))
			e.Path = fmt.Sprintf("%s/file-%x.txt", dir, uint32(i)*2654435761)
			e.Mode, e.Pack = 0o644, id
			e.Content = &squashfs.Content{Size: size, Start: int64(i) * spacing, Fragment: -1}
			for left := size; left > 0; left -= blockSize {
				e.Content.Blocks = append(e.Content.Blocks, uint32(min(left, blockSize)/3+1))
			}
		}
		if err := b.Add(e); err != nil {
			return err
		}
	}
	return nil
}

// childGrow writes an image of so many bytes of contents that come from
// nowhere, to see what memory that takes.
func childGrow(ctx context.Context, f *flag.FlagSet, args []string, _ io.Writer) error {
	var w writerFlags
	w.define(f)
	size := f.Int64("size", 0, "bytes of file contents")
	files := f.Int("files", 0, "number of further files, of some bytes each")
	if err := w.parse(f, args, 1); err != nil {
		return err
	}
	return profiled(w.profile, func() error {
		return writeImage(f.Arg(0), &w.opts, func(w *squashfs.Writer) error {
			if err := addGrown(ctx, w, *size); err != nil {
				return err
			}
			return addMany(ctx, w, *files)
		})
	})
}

// addMany adds files that differ, 50 to a directory.
func addMany(ctx context.Context, w *squashfs.Writer, n int) error {
	for i := range n {
		content := fmt.Sprintf("contents of module %d", i)
		e := squashfs.Entry{
			Path: fmt.Sprintf("usr/lib/python3/package-%d/module_%d.py", i/50, i),
			Mode: 0o644, UID: uint32(i % 3), Size: int64(len(content)),
		}
		if err := w.Add(ctx, e, strings.NewReader(content)); err != nil {
			return err
		}
	}
	return nil
}

// addGrown adds files of 4 KB to 64 MB, none of which is like another. They
// shrink to a quarter, so that what is written does not hide what is read.
func addGrown(ctx context.Context, w *squashfs.Writer, size int64) error {
	src := newGrowth()
	for i := 0; size > 0; i++ {
		n := min(size, 4096<<(2*(i%8)))
		e := squashfs.Entry{Path: fmt.Sprintf("data/%d/%d", i/1000, i), Mode: 0o644, Size: n}
		if err := w.Add(ctx, e, src); err != nil {
			return err
		}
		size -= n
	}
	return nil
}
