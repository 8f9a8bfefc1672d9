package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// paths is a flag that may come several times.
type paths []string

func (p *paths) String() string     { return strings.Join(*p, " ") }
func (p *paths) Set(s string) error { *p = append(*p, s); return nil }

// machineTree is where a tree comes from when nothing is said: programs,
// libraries, scripts and documents, in about the mix of an image.
func machineTree() paths {
	return paths{"/usr/bin", "/usr/lib/python3", "/usr/lib/python3.11", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/share"}
}

// squashfsFlags are the flags of bench squashfs.
type squashfsFlags struct {
	trees     paths
	archive   string
	generated bool
	size      int64 // MB
	rounds    int
	workers   int
	quick     bool
	only      string
	dir       string
	profiles  string
	json      string
}

func (o *squashfsFlags) parse(args []string, stderr io.Writer) error {
	f := flag.NewFlagSet("squashfs", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Var(&o.trees, "tree", "sample this `directory`; may come several times (default parts of /usr)")
	f.StringVar(&o.archive, "tar", "", "take this tar `file` instead of a sample")
	f.BoolVar(&o.generated, "generated", false, "make a tree up from a fixed seed")
	f.Int64Var(&o.size, "size", 200, "`megabytes` of file contents; 0 takes directories whole")
	f.IntVar(&o.rounds, "rounds", 3, "`number` of rounds")
	f.IntVar(&o.workers, "workers", runtime.GOMAXPROCS(0), "`number` of threads for every program")
	f.BoolVar(&o.quick, "quick", false, "about a minute: no level that is slow and, unless given, 24 MB and two rounds")
	f.StringVar(&o.only, "only", "gzip,zstd,lz4,dir,read,tables,memory", "`list` of tables to make")
	f.StringVar(&o.dir, "dir", "", "where the temporary `directory` is made (default the system's)")
	f.StringVar(&o.profiles, "profiles", "", "leave CPU profiles of our runs in this `directory`")
	f.StringVar(&o.json, "json", "", "write all figures to this `file`")
	if err := parse(f, args, 0); err != nil {
		return err
	}
	if o.rounds < 1 || o.workers < 1 || o.size < 0 {
		fmt.Fprintln(stderr, "bench squashfs: -rounds and -workers must be at least 1, -size at least 0")
		return errUsage
	}
	for name := range strings.SplitSeq(o.only, ",") {
		if !slices.Contains([]string{"gzip", "zstd", "lz4", "dir", "read", "tables", "memory"}, name) {
			fmt.Fprintf(stderr, "bench squashfs: -only: there is no table %q\n", name)
			return errUsage
		}
	}
	if o.quick {
		o.hurry(f)
	}
	if len(o.trees) == 0 {
		o.trees = machineTree()
	}
	if o.generated && o.size == 0 {
		o.size = 200
	}
	return nil
}

// hurry makes what was not asked for smaller.
func (o *squashfsFlags) hurry(f *flag.FlagSet) {
	set := make(map[string]bool)
	f.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if !set["size"] {
		o.size = 24
	}
	if !set["rounds"] {
		o.rounds = 2
	}
}

func runSquashfs(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	var o squashfsFlags
	if err := o.parse(args, stderr); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(o.dir, "hpcimg-bench-")
	if err != nil {
		return err
	}
	defer func() {
		if e := os.RemoveAll(tmp); err == nil {
			err = e
		}
	}()
	b := squashfsBench{squashfsFlags: o, tmp: tmp, stderr: stderr}
	r := &report{Machine: thisMachine()}
	if r.Input, err = b.prepare(ctx); err != nil {
		return err
	}
	b.input = r.Input.Bytes
	fmt.Fprintf(stderr, "input: %v\n", r.Input)
	for name := range strings.SplitSeq(o.only, ",") {
		t, err := b.table(ctx, name)
		if err != nil {
			return err
		}
		if len(t.Results) > 0 {
			r.Tables = append(r.Tables, *t)
		}
	}
	r.Machine.LoadEnd = loadAverage()
	if err := r.write(stdout); err != nil || o.json == "" {
		return err
	}
	return r.writeJSON(o.json)
}

// squashfsBench is one run of bench squashfs.
type squashfsBench struct {
	squashfsFlags
	tmp    string
	stderr io.Writer
	input  int64 // bytes of file contents

	mksquashfs, unsquashfs, tar2sqfs string // "" if not installed
}

func (b *squashfsBench) path(name string) string { return filepath.Join(b.tmp, name) }

// prepare makes the archive and looks for the programs to compare with.
func (b *squashfsBench) prepare(ctx context.Context) (traits, error) {
	b.mksquashfs = lookUp(b.stderr, "mksquashfs")
	b.unsquashfs = lookUp(b.stderr, "unsquashfs")
	b.tar2sqfs = lookUp(b.stderr, "tar2sqfs")
	if b.profiles != "" {
		if err := os.MkdirAll(b.profiles, 0o755); err != nil {
			return traits{}, err
		}
	}
	if b.archive == "" {
		b.archive = b.path("tree.tar")
		args := []string{"tree", "-out", b.archive, "-size", strconv.FormatInt(b.size*1e6, 10)}
		if b.generated {
			args = append(args, "-generated")
		}
		if err := b.child(ctx, append(args, b.trees...)...); err != nil {
			return traits{}, err
		}
	}
	return describeTar(ctx, b.archive)
}

// child runs a job of ours that is not measured.
func (b *squashfsBench) child(ctx context.Context, args ...string) error {
	p, err := ours(args...)
	if err != nil {
		return err
	}
	_, _, err = p.run(ctx)
	return err
}

func (b *squashfsBench) table(ctx context.Context, name string) (*table, error) {
	switch name {
	case "read":
		return b.read(ctx)
	case "tables":
		return b.tables(ctx)
	case "memory":
		return b.memory(ctx)
	}
	c := contest{name: name, out: b.path("out.squashfs")}
	var err error
	switch name {
	case "gzip":
		c.title = "Writing gzip"
		c.contenders, err = b.gzip()
	case "zstd":
		c.title = "Writing zstd"
		c.contenders, err = b.zstd()
	case "lz4":
		c.title = "Writing lz4"
		c.contenders, err = b.lz4()
	case "dir":
		c.title = "Writing a directory"
		c.contenders, err = b.directory(ctx)
	}
	if err != nil {
		return nil, err
	}
	return b.hold(ctx, &c)
}

func (b *squashfsBench) hold(ctx context.Context, c *contest) (*table, error) {
	t, err := c.hold(ctx, b.rounds, b.stderr)
	if err == nil {
		t.Input = b.input
	}
	return t, err
}

// tables measures what WriteTables takes, which only the child itself can.
func (b *squashfsBench) tables(ctx context.Context) (*table, error) {
	const entries = 100_000
	t := &table{Name: "tables", Title: "Tables of 100,000 entries", Alone: true}
	for _, comp := range []string{"gzip", "zstd", "lz4"} {
		add := result{Program: "hpcimg Add", Setting: comp}
		write := result{Program: "hpcimg WriteTables", Setting: comp}
		for range b.rounds {
			p, err := b.ours("tables-"+comp, "tables", "-comp", comp, "-entries", strconv.Itoa(entries), b.path("tables"))
			if err != nil {
				return nil, err
			}
			run, out, err := p.run(ctx)
			if err != nil {
				return nil, err
			}
			var c tablesCost
			if err := json.Unmarshal(out, &c); err != nil {
				return nil, err
			}
			add.Runs = append(add.Runs, cost{CPU: c.Add, Wall: run.Wall - c.Wall})
			write.Runs = append(write.Runs, cost{CPU: c.Write, Wall: c.Wall, RSS: run.RSS, Size: c.Size - tablesStart})
		}
		t.Results = append(t.Results, add, write)
	}
	return t, os.Remove(b.path("tables"))
}

// memory lets the input grow, and the number of workers.
func (b *squashfsBench) memory(ctx context.Context) (*table, error) {
	sizes := []int64{64, 512, 4096}
	if b.quick {
		sizes = []int64{16, 64, 256}
	}
	c := contest{name: "memory", title: "Memory", alone: true, out: b.path("out.squashfs")}
	add := func(comp string, level, workers int, size int64) error {
		p, err := b.ours("", "grow", "-comp", comp, "-level", strconv.Itoa(level), "-workers", strconv.Itoa(workers),
			"-size", strconv.FormatInt(size<<20, 10), c.out)
		c.contenders = append(c.contenders, contender{
			program: "hpcimg", process: p,
			setting: fmt.Sprintf("%s %d, %d workers, %d MiB", comp, level, workers, size),
		})
		return err
	}
	for _, size := range sizes {
		if err := add("lz4", 1, b.workers, size); err != nil {
			return nil, err
		}
	}
	for _, workers := range []int{b.workers, 16, 64} {
		for _, comp := range []string{"gzip", "zstd"} {
			if err := add(comp, map[string]int{"gzip": 6, "zstd": 3}[comp], workers, sizes[1]); err != nil {
				return nil, err
			}
		}
	}
	files := 1_000_000
	if b.quick {
		files = 100_000
	}
	p, err := b.ours("", "grow", "-comp", "gzip", "-workers", strconv.Itoa(b.workers), "-files", strconv.Itoa(files), c.out)
	if err != nil {
		return nil, err
	}
	c.contenders = append(c.contenders, contender{
		program: "hpcimg", process: p, setting: fmt.Sprintf("gzip 6, %d workers, %d small files", b.workers, files),
	})
	return c.hold(ctx, 1, b.stderr)
}
