package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hpcimg/convert"
	"hpcimg/image/cache"
)

// errNoCacheDir says that nothing tells where the cache is.
var errNoCacheDir = errors.New("no cache directory: HOME is not set, and neither --cache-dir nor HPCIMG_CACHE_DIR is given")

// cachePath returns the directory of the cache, and whether it was named rather than found.
func (f *flags) cachePath() (dir string, named bool, err error) {
	if f.cacheDir != "" {
		return f.cacheDir, true, nil
	}
	if dir := f.std.getenv("HPCIMG_CACHE_DIR"); dir != "" {
		return dir, true, nil
	}
	// As os.UserCacheDir has it.
	if dir := f.std.getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) && runtime.GOOS != "darwin" {
		return filepath.Join(dir, "hpcimg"), false, nil
	}
	home := f.std.getenv("HOME")
	if home == "" {
		return "", false, errNoCacheDir
	}
	if runtime.GOOS == "darwin" {
		return filepath.Join(home, "Library", "Caches", "hpcimg"), false, nil
	}
	return filepath.Join(home, ".cache", "hpcimg"), false, nil
}

// openCache opens the cache that the flags and the environment name, for a conversion. Without --cache-dir and HPCIMG_CACHE_DIR
// it is a convenience: if there cannot be one, such as without a home directory, there is none (nil), and a line on w says why.
func (f *flags) openCache(w io.Writer) (*cache.Cache, error) {
	if f.noCache {
		return nil, nil
	}
	dir, named, err := f.cachePath()
	if err == nil {
		var c *cache.Cache
		if c, err = cache.Open(dir, nil); err == nil {
			f.blobs = c
			return c, nil
		}
	}
	if named {
		return nil, err
	}
	if !f.quiet && !errors.Is(err, errNoCacheDir) {
		fmt.Fprintf(w, "hpcimg: warning: working without a cache: %s\n", printable(err.Error()))
	}
	return nil, nil
}

func newCache(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "cache",
		Short: "List, clean and verify what conversions keep for the next one",
		Long: "List, clean and verify what conversions keep for the next one: in --cache-dir, $HPCIMG_CACHE_DIR, or the directory hpcimg\n" +
			"in the user's cache directory. All of it can be deleted at any time; the next conversion then takes longer.",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("cache: unknown command %q", args[0])
			}
			return cmd.Help()
		},
	}
	c.AddCommand(newCacheList(f), newCacheClean(f), newCacheVerify(f))
	for _, sub := range c.Commands() {
		f.addJSON(sub)
	}
	return c
}

// existingCache opens the cache that a cache command is about.
func (f *flags) existingCache() (*cache.Cache, error) {
	if f.noCache {
		return nil, usagef("--no-cache: this command is about the cache")
	}
	dir, _, err := f.cachePath()
	if err != nil {
		return nil, &usageError{err}
	}
	return cache.Open(dir, nil)
}

// cacheEntry is an entry in the output of `cache list --json` and `cache clean --json`.
type cacheEntry struct {
	Kind string    `json:"kind"`
	Key  string    `json:"key"`
	Size int64     `json:"size"`
	Used time.Time `json:"used"`
}

func cacheEntries(infos []cache.Info) []cacheEntry {
	entries := []cacheEntry{}
	for _, info := range infos {
		entries = append(entries, cacheEntry{string(info.Kind), info.Key, info.Size, info.Used.UTC().Truncate(time.Second)})
	}
	return entries
}

func printEntries(out io.Writer, infos []cache.Info) error {
	for _, info := range infos {
		_, err := fmt.Fprintf(out, "%-7s %10s  %s  %s\n", info.Kind, byteCount(info.Size), info.Used.UTC().Format("2006-01-02 15:04"), info.Key)
		if err != nil {
			return err
		}
	}
	return nil
}

func newCacheList(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List what is in the cache, what was used least recently first",
		Args:  cobra.NoArgs,
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		store, err := f.existingCache()
		if err != nil {
			return err
		}
		infos, err := store.List(cmd.Context())
		if err != nil {
			return err
		}
		images, err := fetchedFiles(store)
		if err != nil {
			return err
		}
		infos = append(infos, images...)
		out := cmd.OutOrStdout()
		if f.json {
			return printJSON(out, cacheEntries(infos))
		}
		if err := printEntries(out, infos); err != nil {
			return err
		}
		var total int64
		for _, info := range infos {
			total += info.Size
		}
		_, err = fmt.Fprintf(out, "%s: %d entries, %s\n", printable(store.Dir()), len(infos), byteCount(total))
		return err
	}
	return c
}

// cleanReport is the output of `cache clean --json`.
type cleanReport struct {
	Removed   []cacheEntry `json:"removed"`
	Freed     int64        `json:"freed"`
	Kept      int          `json:"kept"`
	KeptSize  int64        `json:"kept_size"`
	Leftovers int          `json:"leftovers"`
}

func newCacheClean(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "clean [flags]",
		Short: "Remove what was used least recently",
		Long: "Remove what was used least recently until no more than --max-size is left, and what was not used for --max-age.\n" +
			"What was used in the last hour stays, unless --all is given, and so does a size of 50 GiB if neither limit is. Files that\n" +
			"interrupted commands left are removed in any case. Images that exec, run and shell have fetched have limits of the same size\n" +
			"to themselves.",
		Args: cobra.NoArgs,
	}
	maxSize := c.Flags().String("max-size", "", "how much to keep, such as 20G")
	maxAge := c.Flags().String("max-age", "", "how long to keep what is not used, such as 30d or 12h")
	all := c.Flags().Bool("all", false, "remove everything")
	dryRun := c.Flags().BoolP("dry-run", "n", false, "remove nothing, say what would be")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		opts, err := cleanOptions(*maxSize, *maxAge)
		if err != nil {
			return err
		}
		opts.DryRun = *dryRun
		opts.All = opts.All || *all
		store, err := f.existingCache()
		if err != nil {
			return err
		}
		result, err := store.Clean(cmd.Context(), opts)
		if err != nil {
			return err
		}
		if err := cleanFetched(store, opts, result); err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		if f.json {
			return printJSON(out, cleanReport{
				Removed: cacheEntries(result.Removed), Freed: result.Freed,
				Kept: result.Kept, KeptSize: result.KeptSize, Leftovers: result.Leftovers,
			})
		}
		verb := "removed"
		if *dryRun {
			verb = "would remove"
			if err := printEntries(out, result.Removed); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintf(out, "%s: %s %d entries of %s and %d leftovers; %d entries of %s stay\n", printable(store.Dir()), verb,
			len(result.Removed), byteCount(result.Freed), result.Leftovers, result.Kept, byteCount(result.KeptSize))
		return err
	}
	return c
}

// cleanOptions turns the limits of the command line into those of the cache.
func cleanOptions(maxSize, maxAge string) (*cache.CleanOptions, error) {
	opts := &cache.CleanOptions{}
	if maxAge != "" {
		age, err := parseAge(maxAge)
		if err != nil {
			return nil, usagef("--max-age: %w", err)
		}
		opts.MaxAge, opts.MaxSize = age, -1
	}
	if maxSize != "" {
		size, err := parseSize(maxSize)
		if err != nil {
			return nil, usagef("--max-size: %w", err)
		}
		opts.MaxSize, opts.All = size, size == 0
	}
	return opts, nil
}

// verifyReport is the output of `cache verify --json`.
type verifyReport struct {
	Entries int              `json:"entries"`
	Size    int64            `json:"size"`
	Damaged []damagedEntries `json:"damaged"`
}

type damagedEntries struct {
	Kind  string `json:"kind"`
	Key   string `json:"key"`
	Error string `json:"error"`
}

func newCacheVerify(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "verify",
		Short: "Read all of the cache, and remove what is damaged",
		Args:  cobra.NoArgs,
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		store, err := f.existingCache()
		if err != nil {
			return err
		}
		report, err := f.newReporter(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		result, err := store.Verify(cmd.Context(), func(done, total int64) {
			report.Event(convert.Event{Stage: stageVerify, Done: done, Total: total})
		})
		report.Close()
		if err != nil {
			return err
		}
		damaged := []damagedEntries{}
		for _, corrupt := range result.Corrupt {
			damaged = append(damaged, damagedEntries{string(corrupt.Kind), corrupt.Key, corrupt.Error()})
		}
		out := cmd.OutOrStdout()
		if f.json {
			err = printJSON(out, verifyReport{Entries: result.Entries, Size: result.Size, Damaged: damaged})
		} else {
			_, err = fmt.Fprintf(out, "%s: %d entries, %s, are as they should be\n", printable(store.Dir()), result.Entries, byteCount(result.Size))
		}
		if err != nil {
			return err
		}
		errs := make([]error, 0, len(result.Corrupt))
		for _, corrupt := range result.Corrupt {
			errs = append(errs, corrupt)
		}
		return errors.Join(errs...)
	}
	return c
}

// parseSize reads a number of bytes such as 4096, 20G or 1.5TiB. A K is 1024.
func parseSize(s string) (int64, error) {
	digits := strings.TrimRight(strings.ToUpper(s), "KMGTPIB")
	factor := 1.0
	switch unit := strings.ToUpper(s[len(digits):]); strings.TrimSuffix(strings.TrimSuffix(unit, "B"), "I") {
	case "":
		if unit != "" && unit != "B" {
			return 0, fmt.Errorf("%q is not a size such as 20G", s)
		}
	case "K":
		factor = 1 << 10
	case "M":
		factor = 1 << 20
	case "G":
		factor = 1 << 30
	case "T":
		factor = 1 << 40
	case "P":
		factor = 1 << 50
	default:
		return 0, fmt.Errorf("%q is not a size such as 20G", s)
	}
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || !(n >= 0) || n*factor >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size such as 20G", s)
	}
	return int64(n * factor), nil
}

// parseAge reads a time such as 30d, 2w, or what time.ParseDuration knows.
func parseAge(s string) (time.Duration, error) {
	const day = 24 * time.Hour
	unit := map[byte]time.Duration{'d': day, 'w': 7 * day}[s[len(s)-1]]
	if unit == 0 {
		if d, err := time.ParseDuration(s); err == nil && d > 0 {
			return d, nil
		}
		return 0, fmt.Errorf("%q is not a time such as 30d or 12h", s)
	}
	n, err := strconv.ParseFloat(s[:len(s)-1], 64)
	if err != nil || !(n > 0) || n*float64(unit) >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a time such as 30d or 12h", s)
	}
	return time.Duration(n * float64(unit)), nil
}
