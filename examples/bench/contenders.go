package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// The commands that write and extract. All programs get the same number of
// threads; everything else is their default unless the setting says otherwise.

// ours is the process of a job of this program, with a profile if it has a name
// and profiles are wanted.
func (b *squashfsBench) ours(profile, job string, args ...string) (process, error) {
	all := []string{job}
	if b.profiles != "" && profile != "" {
		all = append(all, "-profile", filepath.Join(b.profiles, profile+".pprof"))
	}
	return ours(append(all, args...)...)
}

// writers adds up the contenders of a table; the first error sticks.
type writers struct {
	b    *squashfsBench
	list []contender
	err  error
}

// hpcimg adds our Writer at several levels, reading the archive.
func (w *writers) hpcimg(comp string, levels ...int) {
	for _, level := range levels {
		n := strconv.Itoa(level)
		p, err := w.b.ours("write-"+comp+"-"+n, "write", "-comp", comp, "-level", n, "-workers", strconv.Itoa(w.b.workers),
			"-tar", w.b.archive, w.b.path("out.squashfs"))
		if w.err == nil {
			w.err = err
		}
		w.list = append(w.list, contender{program: "hpcimg", setting: comp + " " + n, process: p})
	}
}

// mksquashfs adds mksquashfs with the archive on its standard input.
func (w *writers) mksquashfs(reference bool, comp string, options ...string) {
	if w.b.mksquashfs == "" {
		return
	}
	p := w.b.mksquashfsProcess("-", comp, options...)
	p.argv = append(p.argv, "-tar")
	p.stdin = w.b.archive
	w.list = append(w.list, contender{program: "mksquashfs", setting: setting(comp, options), reference: reference, process: p})
}

func (b *squashfsBench) mksquashfsProcess(source, comp string, options ...string) process {
	argv := []string{
		b.mksquashfs, source, b.path("out.squashfs"), "-comp", comp, "-noappend", "-no-progress", "-quiet",
		"-processors", strconv.Itoa(b.workers),
	}
	return process{argv: append(argv, options...)}
}

// setting names a compressor and the last option, which is its level.
func setting(comp string, options []string) string {
	if len(options) == 0 {
		return comp + " default"
	}
	_, level, _ := strings.Cut(options[len(options)-1], "=")
	if level == "" {
		level = options[len(options)-1]
	}
	return comp + " " + level
}

// tar2sqfs adds tar2sqfs; a level of 0 is its default.
func (w *writers) tar2sqfs(reference bool, comp string, level int) {
	if w.b.tar2sqfs == "" {
		return
	}
	argv := []string{w.b.tar2sqfs, "-q", "-f", "-j", strconv.Itoa(w.b.workers), "-c", comp}
	var options []string
	if level > 0 {
		options = []string{"-X", fmt.Sprintf("level=%d", level)}
	}
	p := process{argv: append(append(argv, options...), w.b.path("out.squashfs")), stdin: w.b.archive}
	w.list = append(w.list, contender{program: "tar2sqfs", setting: setting(comp, options), reference: reference, process: p})
}

func (b *squashfsBench) gzip() ([]contender, error) {
	w := &writers{b: b}
	w.mksquashfs(true, "gzip")
	w.hpcimg("gzip", 6, 1, 5, 7)
	if !b.quick {
		w.hpcimg("gzip", 9)
		w.mksquashfs(false, "gzip", "-Xcompression-level", "6")
	}
	return w.list, w.err
}

func (b *squashfsBench) zstd() ([]contender, error) {
	w := &writers{b: b}
	w.tar2sqfs(true, "zstd", 3)
	w.tar2sqfs(false, "zstd", 1)
	w.hpcimg("zstd", 1, 2, 3, 6)
	w.mksquashfs(false, "zstd", "-Xcompression-level", "1")
	w.mksquashfs(false, "zstd", "-Xcompression-level", "3")
	if !b.quick {
		w.hpcimg("zstd", 10)
		w.mksquashfs(false, "zstd")
	}
	return w.list, w.err
}

func (b *squashfsBench) lz4() ([]contender, error) {
	w := &writers{b: b}
	w.mksquashfs(true, "lz4")
	w.tar2sqfs(false, "lz4", 0)
	w.hpcimg("lz4", 1)
	return w.list, w.err
}

// directory has everybody read files from a directory, which is the archive
// extracted.
func (b *squashfsBench) directory(ctx context.Context) ([]contender, error) {
	image, dir := b.path("tree.squashfs"), b.path("tree")
	if err := b.child(ctx, "write", "-comp", "lz4", "-tar", b.archive, image); err != nil {
		return nil, err
	}
	if err := b.child(ctx, "extract", image, dir); err != nil {
		return nil, err
	}
	var list []contender
	for _, c := range []struct{ comp, level string }{{"gzip", "6"}, {"zstd", "3"}} {
		p, err := b.ours("dir-"+c.comp, "write", "-comp", c.comp, "-level", c.level, "-workers", strconv.Itoa(b.workers),
			"-tree", dir, b.path("out.squashfs"))
		if err != nil {
			return nil, err
		}
		list = append(list, contender{program: "hpcimg", setting: c.comp + " " + c.level, process: p})
	}
	if b.mksquashfs == "" {
		return list, nil
	}
	zstd := []string{"-Xcompression-level", "3"}
	return append(list,
		contender{program: "mksquashfs", setting: "gzip default", reference: true, process: b.mksquashfsProcess(dir, "gzip")},
		contender{program: "mksquashfs", setting: setting("zstd", zstd), process: b.mksquashfsProcess(dir, "zstd", zstd...)},
	), nil
}

// read extracts images of each compressor, as we write them, into a directory.
func (b *squashfsBench) read(ctx context.Context) (*table, error) {
	c := contest{name: "read", title: "Extracting", out: b.path("extracted")}
	for _, comp := range []string{"zstd", "gzip", "lz4"} {
		image := b.path(comp + ".squashfs")
		if err := b.child(ctx, "write", "-comp", comp, "-tar", b.archive, image); err != nil {
			return nil, err
		}
		p, err := b.ours("read-"+comp, "extract", "-workers", strconv.Itoa(b.workers), image, c.out)
		if err != nil {
			return nil, err
		}
		c.contenders = append(c.contenders, contender{program: "hpcimg", setting: comp, process: p})
		if b.unsquashfs == "" {
			continue
		}
		c.contenders = append(c.contenders, contender{
			program: "unsquashfs", setting: comp, reference: comp == "zstd",
			process: process{argv: []string{b.unsquashfs, "-no-progress", "-quiet", "-processors", strconv.Itoa(b.workers), "-d", c.out, image}},
		})
	}
	return b.hold(ctx, &c)
}
