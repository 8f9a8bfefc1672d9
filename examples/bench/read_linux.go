package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/mount"
	"hpcimg/squashfs"
)

// readFlags are the flags of bench read.
type readFlags struct {
	image  string
	walk   string
	peers  string
	only   string
	rounds int
	size   int64
	large  string
	dir    string
	json   string
}

func (o *readFlags) parse(args []string, stderr io.Writer) error {
	f := flag.NewFlagSet("read", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.image, "image", "", "squashfs `file` with Python, NumPy and pandas; what it contains also makes the large file")
	f.StringVar(&o.walk, "walk", "", "squashfs `file` to walk (default that of -image)")
	f.StringVar(&o.peers, "peers", "squashfuse_ll", "`list` of programs to compare with, called as squashfuse_ll is")
	f.StringVar(&o.only, "only", "import,sequential,readers,walk", "`list` of tables to make")
	f.IntVar(&o.rounds, "rounds", 3, "`number` of rounds")
	f.Int64Var(&o.size, "size", 1024, "`MiB` of the large file")
	f.StringVar(&o.large, "large", "", "squashfs `file` with the large file, made if it is not there (default a temporary one)")
	f.StringVar(&o.dir, "dir", "", "where the temporary `directory` is made (default the system's)")
	f.StringVar(&o.json, "json", "", "write all figures to this `file`")
	if err := parse(f, args, 0); err != nil {
		return err
	}
	if o.image == "" || o.rounds < 1 || o.size < 1 {
		fmt.Fprintln(stderr, "bench read: -image is needed; -rounds and -size must be at least 1")
		return errUsage
	}
	if o.walk == "" {
		o.walk = o.image
	}
	return nil
}

// reading is what is done in a mounted image.
type reading struct {
	name, title string
	image       string
	do          func(ctx context.Context, dir string) error
}

// readCost is what one round of a reading took: with nothing in memory, in a fresh mount of an image whose file is in memory,
// and once more in that. CPU and Peak are those of the server, where there is one.
type readCost struct {
	Cold, First, Warm time.Duration
	CPU               time.Duration // of the server, in the fresh mount
	Peak              int64         // bytes
}

// readResult is how one way of mounting did.
type readResult struct {
	Reading string     `json:"reading"`
	Program string     `json:"program"`
	Rounds  []readCost `json:"rounds"`
}

func runRead(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	var o readFlags
	if err := o.parse(args, stderr); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("reading is measured as root, who mounts and empties the page cache")
	}
	tmp, err := os.MkdirTemp(o.dir, "hpcimg-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	b := readBench{readFlags: o, dir: filepath.Join(tmp, "mnt"), nothing: filepath.Join(tmp, "nothing"), stderr: stderr}
	if err := errors.Join(os.Mkdir(b.dir, 0o755), os.Mkdir(b.nothing, 0o755)); err != nil {
		return err
	}
	programs := []string{kernelProgram, serveProgram, runProgram}
	for p := range strings.SplitSeq(o.peers, ",") {
		if path := lookUp(stderr, p); path != "" {
			programs = append(programs, path)
		}
	}
	var all []readResult
	for name := range strings.SplitSeq(o.only, ",") {
		r, err := b.reading(ctx, name, tmp)
		if err != nil {
			return err
		}
		results, err := b.hold(ctx, r, programs)
		if err != nil {
			return err
		}
		writeReading(stdout, r, results)
		all = append(all, results...)
	}
	if o.json == "" {
		return nil
	}
	data, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(data, '\n'), 0o644)
}

// Programs that are none of somebody else's. The third is what a command sees that package runtime starts: an overlay on top of what is
// served.
const (
	kernelProgram = "kernel"
	serveProgram  = "hpcimg"
	runProgram    = "hpcimg, as run"
	firstPeer     = 3
)

type readBench struct {
	readFlags
	dir     string
	nothing string // an empty directory
	stderr  io.Writer
}

const (
	largeName = "large"
	readers   = 16
)

func (b *readBench) reading(ctx context.Context, name, tmp string) (reading, error) {
	switch name {
	case "import":
		return reading{name, "`import numpy, pandas`", b.image, func(ctx context.Context, dir string) error {
			out, err := exec.CommandContext(ctx, "chroot", dir, "python3", "-c", "import numpy, pandas").CombinedOutput()
			if err != nil {
				return fmt.Errorf("import: %w: %s", err, lastLine(string(out)))
			}
			return nil
		}}, nil
	case "walk":
		return reading{name, "Walking, with the attributes of everything", b.walk, walkTree}, nil
	case "sequential", "readers":
		large := cmp.Or(b.large, filepath.Join(tmp, "large.squashfs"))
		if _, err := os.Stat(large); errors.Is(err, fs.ErrNotExist) {
			if err := makeLarge(ctx, large, b.image, b.size<<20); err != nil {
				return reading{}, err
			}
		}
		if name == "sequential" {
			return reading{name, fmt.Sprintf("One reader, %d MiB", b.size), large, func(_ context.Context, dir string) error {
				return readPart(filepath.Join(dir, largeName), 0, b.size<<20)
			}}, nil
		}
		return reading{name, fmt.Sprintf("%d readers, %d MiB each", readers, b.size/readers), large, func(_ context.Context, dir string) error {
			return readParts(filepath.Join(dir, largeName), b.size<<20/readers)
		}}, nil
	}
	return reading{}, fmt.Errorf("there is no table %q", name)
}

func walkTree(_ context.Context, dir string) error {
	return filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			_, err = d.Info()
		}
		return err
	})
}

func readParts(name string, size int64) error {
	errs := make([]error, readers)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = readPart(name, int64(i)*size, size) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func readPart(name string, off, size int64) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 128<<10)
	for end := off + size; off < end; {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
		if off += int64(n); err != nil && off < end {
			return fmt.Errorf("at %d: %w", off, err)
		}
	}
	return nil
}

// makeLarge writes an image with one file, of what is in the files of another, over and over, compressed as they are.
func makeLarge(ctx context.Context, out, from string, size int64) error {
	r, err := squashfs.Open(from, nil)
	if err != nil {
		return err
	}
	defer r.Close()
	o := &squashfs.WriterOptions{Compression: r.Compression(), BlockSize: r.BlockSize()}
	return squashfs.Create(ctx, out, o, func(ctx context.Context, w *squashfs.Writer) error {
		pr, pw := io.Pipe()
		defer pr.Close()
		go func() {
			for {
				if err := writeContents(pw, r); err != nil {
					pw.CloseWithError(err)
					return
				}
			}
		}()
		return w.Add(ctx, squashfs.Entry{Path: largeName, Mode: 0o644, Size: size}, bufio.NewReaderSize(pr, 1<<20))
	})
}

func writeContents(w io.Writer, r *squashfs.Reader) error {
	return fs.WalkDir(r, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := r.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	})
}

// hold has all programs take turns, every other round backwards.
func (b *readBench) hold(ctx context.Context, r reading, programs []string) ([]readResult, error) {
	results := make([]readResult, len(programs))
	order := make([]int, len(programs))
	for i, p := range programs {
		order[i] = i
		results[i] = readResult{Reading: r.name, Program: p}
	}
	for round := range b.rounds {
		for _, i := range order {
			c, err := b.once(ctx, r, programs[i])
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", r.name, programs[i], err)
			}
			results[i].Rounds = append(results[i].Rounds, c)
			fmt.Fprintf(b.stderr, "%s: round %d of %d: %s: cold %.2f s, first %.2f s, warm %.2f s, server %.2f s CPU\n", r.name, round+1,
				b.rounds, filepath.Base(programs[i]), c.Cold.Seconds(), c.First.Seconds(), c.Warm.Seconds(), c.CPU.Seconds())
		}
		slices.Reverse(order)
	}
	return results, nil
}

func (b *readBench) once(ctx context.Context, r reading, program string) (c readCost, err error) {
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return c, err
	}
	if c.Cold, _, err = b.mounted(ctx, r, program, nil); err != nil {
		return c, err
	}
	f, err := os.Open(r.image)
	if err != nil {
		return c, err
	}
	_, err = io.Copy(io.Discard, f)
	_ = f.Close()
	if err != nil {
		return c, err
	}
	c.First, c.Warm, err = b.mounted(ctx, r, program, &c)
	return c, err
}

// mounted mounts the image, does what is to be measured, once or, with usage, twice, and unmounts.
func (b *readBench) mounted(ctx context.Context, r reading, program string, usage *readCost) (first, second time.Duration, err error) {
	pid, end, err := b.mount(ctx, r.image, program)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, end()) }()
	begin := time.Now()
	err = r.do(ctx, b.dir)
	first = time.Since(begin)
	if err != nil || usage == nil {
		return first, 0, err
	}
	if pid != 0 {
		usage.CPU = serverCPU(pid)
	}
	begin = time.Now()
	err = r.do(ctx, b.dir)
	second = time.Since(begin)
	if pid != 0 {
		usage.Peak = serverPeak(pid)
	}
	return first, second, err
}

// mount mounts an image by a program and returns its process, if it has one, and the way back.
func (b *readBench) mount(ctx context.Context, image, program string) (pid int, end func() error, err error) {
	if program == kernelProgram {
		return 0, func() error { return unmountSoon(b.dir) }, mount.Squashfs(ctx, image, b.dir, nil)
	}
	p := process{argv: []string{program, "-f", image, b.dir}}
	own := program == serveProgram || program == runProgram
	if own {
		if p, err = ours("serve", image, b.dir); err != nil {
			return 0, nil, err
		}
	}
	cmd := exec.CommandContext(ctx, p.argv[0], p.argv[1:]...)
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	end = func() error {
		err := unmountSoon(b.dir)
		if err != nil {
			_ = unix.Unmount(b.dir, unix.MNT_DETACH)
			_ = cmd.Process.Kill()
		}
		ended := cmd.Wait()
		if !own {
			ended = nil // squashfuse_ll fails now and then because it is no longer mounted
		}
		return errors.Join(err, ended)
	}
	var there, below unix.Stat_t
	for range 1000 {
		if err := errors.Join(unix.Stat(b.dir, &there), unix.Stat(filepath.Dir(b.dir), &below)); err == nil && there.Dev != below.Dev {
			if program != runProgram {
				return cmd.Process.Pid, end, nil
			}
			return b.cover(cmd.Process.Pid, end)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return 0, nil, errors.Join(fmt.Errorf("%s has mounted nothing", program), end())
}

// cover lays an overlay over what is mounted, as package runtime does.
func (b *readBench) cover(pid int, end func() error) (int, func() error, error) {
	data := "lowerdir=" + b.dir + "/.:" + b.nothing
	if err := unix.Mount("overlay", b.dir, "overlay", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return 0, nil, errors.Join(fmt.Errorf("overlay: %w", err), end())
	}
	return pid, func() error { return errors.Join(unmountSoon(b.dir), end()) }, nil
}

// unmountSoon unmounts when those who have just ended have let go of their files.
func unmountSoon(dir string) error {
	for range 200 {
		if err := unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return unix.EBUSY
}

// childServe is our server in a process of its own.
func childServe(ctx context.Context, f *flag.FlagSet, args []string, _ io.Writer) error {
	if err := parse(f, args, 2); err != nil {
		return err
	}
	s, err := mount.Fuse(ctx, f.Arg(0), f.Arg(1), nil)
	if err != nil {
		return err
	}
	return s.Wait()
}

func serverCPU(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if err != nil || len(fields) < 13 {
		return 0
	}
	var ticks int
	for _, f := range fields[11:13] { // utime, stime
		n, _ := strconv.Atoi(f)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func serverPeak(pid int) int64 {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(data), "VmHWM:")
	var kib int64
	_, _ = fmt.Sscan(rest, &kib)
	return kib << 10
}

// writeReading prints a table of medians. The last columns compare with each round's own run of the others.
func writeReading(w io.Writer, r reading, results []readResult) {
	fmt.Fprintf(w, "## %s\n\n| program | cold s | first s | warm s | server CPU s | peak MiB | first / kernel | first / peer | cold / kernel | cold / peer | warm / kernel | warm / peer |\n", r.title)
	fmt.Fprintf(w, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	cold := func(c readCost) float64 { return c.Cold.Seconds() }
	first := func(c readCost) float64 { return c.First.Seconds() }
	warm := func(c readCost) float64 { return c.Warm.Seconds() }
	for _, x := range results {
		fmt.Fprintf(w, "| %s | %.2f | %.2f | %.2f | %.2f | %.0f |", filepath.Base(x.Program), x.median(cold), x.median(first),
			x.median(warm),
			x.median(func(c readCost) float64 { return c.CPU.Seconds() }),
			x.median(func(c readCost) float64 { return float64(c.Peak) / (1 << 20) }))
		for _, value := range []func(readCost) float64{first, cold, warm} {
			for _, other := range []int{0, firstPeer} {
				if other < len(results) {
					fmt.Fprintf(w, " %.2f |", x.ratio(&results[other], value))
				} else {
					fmt.Fprint(w, " |")
				}
			}
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
}

func (r *readResult) median(value func(readCost) float64) float64 {
	return r.ratio(&readResult{}, value)
}

// ratio is the median of what value says of each round, divided by what it says of the same round of another.
func (r *readResult) ratio(by *readResult, value func(readCost) float64) float64 {
	var all []float64
	for i, c := range r.Rounds {
		v := value(c)
		if i < len(by.Rounds) {
			v /= value(by.Rounds[i])
		}
		all = append(all, v)
	}
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}
