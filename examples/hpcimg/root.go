package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"hpcimg/convert"
	"hpcimg/image/cache"
	"hpcimg/squashfs"
)

// Exit statuses of the command line's contract.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// version is what a SIF file made by this command says of its maker.
const version = "0.1.0-dev"

// stdio is everything a verb may touch of the process it runs in, so that a
// test can hand in its own.
type stdio struct {
	in       io.Reader
	out, err io.Writer
	env      []string
}

// getenv returns the last value of name, as a process would see it.
func (s stdio) getenv(name string) string {
	for i := len(s.env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(s.env[i], name+"="); ok {
			return v
		}
	}
	return ""
}

// usageError is a command line that cannot be understood; it ends with status 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// exitError ends the command with a status of its own and prints err, if any.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return "exit status " + strconv.Itoa(e.code)
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

// run executes one command line and returns its exit status.
func run(ctx context.Context, args []string, std stdio) int {
	cmd := newRoot(std, args)
	cmd.SetArgs(args)
	verb, err := cmd.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	exit, ok := errors.AsType[*exitError](err)
	if stopped, sent := errors.AsType[*signalError](context.Cause(ctx)); sent && (!ok || exit.err != nil) {
		printError(std.err, stopped)
		return stopped.status()
	}
	if ok {
		if exit.err != nil {
			printError(std.err, exit.err)
		}
		return exit.code
	}
	printError(std.err, err)
	if _, ok := errors.AsType[*usageError](err); ok {
		fmt.Fprintf(std.err, "hpcimg: see `%s --help`\n", verb.CommandPath())
		return exitUsage
	}
	return exitFailure
}

// printError writes err as one line, however many causes were joined in it.
func printError(w io.Writer, err error) {
	fmt.Fprintf(w, "hpcimg: %s\n", printable(strings.ReplaceAll(err.Error(), "\n", "; ")))
}

// printable replaces what would steer a terminal: names of files come from
// images that anybody may have made.
func printable(s string) string { return escape(s, steers) }

// printableText is printable for text of several lines.
func printableText(s string) string {
	return escape(s, func(r rune) bool { return r != '\n' && r != '\t' && steers(r) })
}

// steers reports whether a terminal does something else with r than to show it.
func steers(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }

// escape replaces the characters that bad reports, and bytes that are no UTF-8:
// to some terminals those are control characters.
func escape(s string, bad func(rune) bool) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, bad) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, "\\x%02x", s[0])
		case !bad(r):
			b.WriteRune(r)
		case r > unicode.MaxLatin1:
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			fmt.Fprintf(&b, "\\x%02x", r)
		}
		s = s[size:]
	}
	return b.String()
}

// flags are the options that many verbs share.
type flags struct {
	std stdio

	json        bool
	quiet       bool
	progress    string
	platform    string
	compression string
	level       int
	blockSize   int
	workers     int
	tmpDir      string
	force       bool
	plainHTTP   bool
	allRoot     bool
	reuse       []string
	noReuse     bool
	forecast    bool
	layers      string

	cacheDir string
	noCache  bool
	offline  bool
	blobs    *cache.Cache // through which registries are read, once there is one

	policy       string
	sbom         bool
	keysDir      string
	passphraseFD int
}

// newRoot makes the command, with the verb that args begin with, or else with
// all of them: a job of many short commands waits for each that is made.
func newRoot(std stdio, args []string) *cobra.Command {
	f := &flags{std: std}
	root := &cobra.Command{
		Use:           "hpcimg",
		Short:         "Build, convert, sign, mount and run HPC container images",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q", args[0])
			}
			return cmd.Help()
		},
	}
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	p := root.PersistentFlags()
	p.BoolVarP(&f.quiet, "quiet", "q", false, "print no progress")
	p.StringVar(&f.progress, "progress", "auto", "how to show progress: auto, plain or none")
	p.StringVar(&f.cacheDir, "cache-dir", "", "directory of the cache (default $HPCIMG_CACHE_DIR, or hpcimg in the user's cache directory)")
	p.BoolVar(&f.noCache, "no-cache", false, "neither use a cache nor fill it")
	chosen := slices.IndexFunc(verbs[:], func(v verb) bool { return len(args) > 0 && args[0] == v.name })
	for i, v := range verbs {
		if chosen < 0 || i == chosen {
			root.AddCommand(v.make(f))
		}
	}
	root.CompletionOptions.DisableDefaultCmd = chosen >= 0
	for _, c := range root.Commands() {
		wrapArgs(c)
	}
	return root
}

// verb is a command of the command line, which is made when it is needed.
type verb struct {
	name string
	make func(*flags) *cobra.Command
}

var verbs = [...]verb{
	{"pull", newPull},
	{"convert", newConvert},
	{"push", newPush},
	{"inspect", newInspect},
	{"ls", newLs},
	{"cat", newCat},
	{"extract", newExtract},
	{"sign", newSign},
	{"verify", newVerify},
	{"key", newKey},
	{"cache", newCache},
	{"exec", newExec},
	{"run", newRun},
	{"shell", newShell},
	{"mount", newMount},
	{"umount", newUmount},
	{"probe", newProbe},
}

// wrapArgs makes every complaint about the number of arguments a usage error.
func wrapArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usagef("%s: %w (usage: %s)", cmd.Name(), err, cmd.UseLine())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}

// addSource adds what opening a source may need.
func (f *flags) addSource(c *cobra.Command) {
	c.Flags().StringVar(&f.platform, "platform", "", "os/arch[/variant] to take from an index (default linux and this machine's)")
	c.Flags().BoolVar(&f.offline, "offline", false, "ask no registry: take what has been pulled before from the cache, and say how old that is")
	c.Flags().BoolVar(&f.plainHTTP, "plain-http", false, "speak HTTP to a registry that is not on this machine")
}

// addWrite adds what writing an image may need.
func (f *flags) addWrite(c *cobra.Command) {
	c.Flags().StringVar(&f.compression, "compression", "gzip", "gzip, zstd, lz4 or none; gzip mounts on every kernel")
	c.Flags().IntVar(&f.level, "level", 0, "compression level (0 is the compressor's default)")
	c.Flags().IntVar(&f.blockSize, "block-size", 0, "squashfs block size in bytes, a power of two from 4096 to 1048576 (0 is 131072)")
	c.Flags().IntVar(&f.workers, "workers", 0, "how many compress at once (0 is one per processor)")
	c.Flags().StringVar(&f.tmpDir, "tmp-dir", "", "where to spool (default beside the destination)")
	c.Flags().BoolVar(&f.allRoot, "all-root", false, "make everything belong to root, as Apptainer does")
	c.Flags().BoolVarP(&f.force, "force", "F", false, "replace an existing destination")
	c.Flags().StringArrayVar(&f.reuse, "reuse", nil, "take what has not changed from this SIF file, an earlier version; may be repeated. A file to be replaced is always reused")
	c.Flags().BoolVar(&f.noReuse, "no-reuse-index", false, "leave out of a SIF file the index with which the next version can be made from it")
	c.Flags().StringVar(&f.layers, "layers", "", "what the layers of OCI images are: tar, estargz, squashfs or segments (default tar, in an OCI-SIF squashfs)")
	c.Flags().BoolVarP(&f.forecast, "dry-run", "n", false, "say what would be fetched, compressed and copied, and how much space that takes")
}

func (f *flags) addJSON(c *cobra.Command) {
	c.Flags().BoolVar(&f.json, "json", false, "print JSON")
}

// maxWorkers is more than any machine has use for.
const maxWorkers = 1024

// levels is the highest level of each compressor that images are written with;
// the lowest is 1, and 0 the default.
var levels = map[squashfs.Compression]int{
	squashfs.CompressionGzip: 9, squashfs.CompressionZstd: 22, squashfs.CompressionLZ4: 9, squashfs.CompressionNone: 0,
}

// compressor returns the compression that --compression names, once the numbers
// that go with it are known to be in their ranges.
func (f *flags) compressor() (squashfs.Compression, error) {
	c, err := squashfs.ParseCompression(f.compression)
	most, writable := levels[c]
	with := f.compression
	if f.layers == string(convert.LayersEstargz) {
		most, with = levels[squashfs.CompressionGzip], f.layers
	}
	switch {
	case err != nil || !writable:
		return 0, usagef("--compression: %q is not gzip, zstd, lz4 or none", f.compression)
	case f.level < 0 || f.level > most:
		return 0, usagef("--level: %d is not between 0 and %d, as %s has it", f.level, most, with)
	case f.workers < 0 || f.workers > maxWorkers:
		return 0, usagef("--workers: %d is not between 0 and %d", f.workers, maxWorkers)
	case f.blockSize != 0 && (f.blockSize < minBlock || f.blockSize > maxBlock || f.blockSize&(f.blockSize-1) != 0):
		return 0, usagef("--block-size: %d is not a power of two from %d to %d", f.blockSize, minBlock, maxBlock)
	}
	return c, nil
}

// What squashfs allows.
const (
	minBlock = 4 << 10
	maxBlock = 1 << 20
)

// epoch returns the time of SOURCE_DATE_EPOCH, or the zero time if it is unset.
func (f *flags) epoch() (time.Time, error) {
	v := f.std.getenv("SOURCE_DATE_EPOCH")
	if v == "" {
		return time.Time{}, nil
	}
	sec, err := strconv.ParseInt(v, 10, 64)
	if err != nil || sec < 0 {
		return time.Time{}, usagef("SOURCE_DATE_EPOCH=%q is not a number of seconds since 1970", v)
	}
	return time.Unix(sec, 0).UTC(), nil
}

// isTerminal reports whether w is a terminal that can redraw a line.
func (f *flags) isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok || f.std.getenv("TERM") == "dumb" {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && termIsTerminal(int(file.Fd()))
}
