package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/image/cache"
	"hpcimg/internal/atomicfile"
	"hpcimg/squashfs"
)

// fetchedDir is where in the cache the SIF files are that exec, run and shell have made of images in layers. A name there is the digest of a
// manifest and this version of how files are made of it.
const (
	fetchedDir    = "images"
	fetchedSuffix = "-1.sif"
	// usedAgain is how often it is noted that one is used.
	usedAgain = time.Hour
	// unfinishedAge is when an unfinished one belongs to nobody, though it cannot be told whether who has begun it lives.
	unfinishedAge = 24 * time.Hour
)

// openImage opens an image to run something in: a local one or, from the cache, a SIF file made of one in layers. What has been asked about already
// is admitted: the policies have seen what the file was made of.
func (f *flags) openImage(cmd *cobra.Command, ref string) (l *localImage, admitted bool, err error) {
	var path string
	switch remote := isRemote(ref); {
	case !remote:
		if l, err = openLocal(ref); !errors.Is(err, errLayers) {
			return l, false, err
		}
		path, err = f.fetchedLayers(cmd, ref)
		admitted = true
	default:
		path, err = f.fetched(cmd, ref)
		admitted = isRegistry(ref)
	}
	if err != nil {
		return nil, false, err
	}
	if l, err = openLocal(path); err != nil {
		return nil, false, err
	}
	l.name = filepath.Base(ref)
	if r, err := image.ParseReference(ref); err == nil && isRemote(ref) {
		l.name = r.FileName(".sif")
	}
	return l, admitted, nil
}

// fetched returns the path of the SIF file that the image ref is in the cache.
func (f *flags) fetched(cmd *cobra.Command, ref string) (string, error) {
	store, err := f.fetchedStore(ref)
	if err != nil {
		return "", err
	}
	source, manifest, err := f.openRemote(cmd.Context(), ref)
	if err != nil {
		return "", err
	}
	return f.fetchedFile(cmd.Context(), store, source, manifest, nil)
}

// fetchedLayers is fetched for an OCI-SIF file. Others may write to it: what has been admitted, what is looked for in the cache and what is put
// there is the same image, or nothing is run.
func (f *flags) fetchedLayers(cmd *cobra.Command, ref string) (string, error) {
	store, err := f.fetchedStore(ref)
	if err != nil {
		return "", err
	}
	path, err := localPath(ref)
	if err != nil {
		return "", err
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	unchanged, err := watchFile(file)
	if err != nil {
		return "", err
	}
	source, err := f.sifInput(cmd.Context(), file)
	if err != nil {
		return "", err
	}
	if err := unchanged(); err != nil {
		return "", err
	}
	manifest, ok := source.Manifest()
	if !ok {
		return "", fmt.Errorf("%s: replaced while it was opened", path)
	}
	return f.fetchedFile(cmd.Context(), store, source, manifest, unchanged)
}

// watchFile returns what fails once an open file has been changed.
func watchFile(file *os.File) (unchanged func() error, err error) {
	var before unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &before); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: file.Name(), Err: err}
	}
	return func() error {
		var after unix.Stat_t
		if err := unix.Fstat(int(file.Fd()), &after); err != nil {
			return &fs.PathError{Op: "stat", Path: file.Name(), Err: err}
		}
		// The last of these times nobody can set.
		if before.Size != after.Size || before.Mtim != after.Mtim || before.Ctim != after.Ctim {
			return fmt.Errorf("%s: the file was changed while it was read: try again, or make it read-only for others", file.Name())
		}
		return nil
	}, nil
}

// fetchedStore opens the cache, without which an image in layers cannot be run.
func (f *flags) fetchedStore(ref string) (*cache.Cache, error) {
	store, err := f.openCache(f.std.err)
	if err == nil && store == nil {
		err = usagef("%s: images in layers are run from the cache, and there is none: make a SIF file of it first (hpcimg pull %s)", ref, ref)
	}
	return store, err
}

// fetchedFile returns the path of the SIF file in the cache that an image is, which it makes if need be: once, whoever else wants it. The
// error of unchanged, if that is given, is a reason not to keep it.
func (f *flags) fetchedFile(
	ctx context.Context, store *cache.Cache, source *convert.Source, manifest image.Descriptor, unchanged func() error,
) (string, error) {
	dir, err := fetchedIn(store)
	if err != nil {
		return "", err
	}
	algorithm, hex, _ := strings.Cut(manifest.Digest.String(), ":")
	path := filepath.Join(dir, algorithm+"-"+hex+fetchedSuffix)
	ready := func() bool {
		info, err := os.Lstat(path)
		return err == nil && info.Mode().IsRegular()
	}
	release, err := store.Once(ctx, "run "+filepath.Base(path), ready)
	if err != nil || release == nil {
		used(path)
		return path, err
	}
	defer release()
	if unchanged == nil {
		return path, f.makeFetched(ctx, store, source, path)
	}
	return path, f.makeUnchanged(ctx, source, path, unchanged)
}

// makeUnchanged is makeFetched for a file. What is made of it has a name that nobody looks for until it is known that the file is still the same. Layers
// of it do not become entries of the cache, since they would be there by then.
func (f *flags) makeUnchanged(ctx context.Context, source *convert.Source, path string, unchanged func() error) error {
	temp, err := atomicfile.Mkdir(path, func(stale string) { _ = os.RemoveAll(stale) })
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	made := filepath.Join(temp, "image.sif")
	if err := f.makeFetched(ctx, nil, source, made); err != nil {
		return err
	}
	if err := unchanged(); err != nil {
		return err
	}
	return os.Rename(made, path)
}

func (f *flags) makeFetched(ctx context.Context, store *cache.Cache, source *convert.Source, path string) error {
	report, err := f.newReporter(f.std.err)
	if err != nil {
		return err
	}
	_, err = convert.Convert(ctx, source, path, &convert.Options{
		Form: convert.FormSIF, Compression: squashfs.CompressionGzip, // as pull does, whose segments the cache may have
		Cache: store, Progress: report.Event, SIF: convert.SIFOptions{Tool: "hpcimg", Version: version, NoReuse: true},
	})
	report.Close()
	switch {
	case errors.Is(err, fs.ErrExist): // somebody else was quicker
		return nil
	case errors.Is(err, convert.ErrArch):
		return fmt.Errorf("%w (or give --platform linux/ARCH)", err)
	}
	return err
}

// fetchedIn returns the directory in the cache, which nobody else may write to.
func fetchedIn(store *cache.Cache) (string, error) {
	dir := filepath.Join(store.Dir(), fetchedDir)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o022 != 0 || !ok || int(st.Uid) != os.Geteuid() {
		return "", &fs.PathError{Op: "open", Path: dir, Err: fmt.Errorf("not a directory of this user alone: %w", fs.ErrPermission)}
	}
	return dir, nil
}

// used notes that a file is used, in its time of access: that of modification tells whether it has changed.
func used(path string) {
	if t := accessed(path); !t.IsZero() && time.Since(t) > usedAgain {
		_ = os.Chtimes(path, time.Now(), time.Time{})
	}
}

// accessed returns the time of access, or zero of a file that is not there.
func accessed(path string) time.Time {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return time.Time{}
	}
	return time.Unix(st.Atim.Unix())
}

// fetchedFiles are the files of fetchedDir, those used least recently first.
func fetchedFiles(store *cache.Cache) ([]cache.Info, error) {
	entries, err := os.ReadDir(filepath.Join(store.Dir(), fetchedDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var files []cache.Info
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() && strings.HasSuffix(e.Name(), ".sif") {
			files = append(files, cache.Info{Kind: "image", Key: e.Name(), Size: info.Size(), Used: accessed(filepath.Join(store.Dir(), fetchedDir, e.Name())), Tier: store.Dir()})
		}
	}
	slices.SortFunc(files, func(a, b cache.Info) int { return a.Used.Compare(b.Used) })
	return files, err
}

// cleanFetched removes what Clean would remove if these were entries, and adds that to its result. The limit of the size is for them alone. What
// runs goes on: it has its file open.
func cleanFetched(store *cache.Cache, o *cache.CleanOptions, result *cache.CleanResult) error {
	files, err := fetchedFiles(store)
	if err != nil {
		return err
	}
	left, err := cleanUnfinished(store, o.DryRun)
	if err != nil {
		return err
	}
	result.Leftovers += left
	limit := o.MaxSize
	if limit == 0 && !o.All {
		limit = defaultKeep
	}
	var total int64
	for _, file := range files {
		total += file.Size
	}
	for _, file := range files {
		age := time.Since(file.Used)
		stale := o.MaxAge > 0 && age > o.MaxAge || limit >= 0 && total > limit
		if !o.All && (!stale || age < usedAgain) {
			result.Kept, result.KeptSize = result.Kept+1, result.KeptSize+file.Size
			continue
		}
		if !o.DryRun {
			if err := os.Remove(filepath.Join(store.Dir(), fetchedDir, file.Key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		total -= file.Size
		result.Removed, result.Freed = append(result.Removed, file), result.Freed+file.Size
	}
	return nil
}

// cleanUnfinished removes what conversions that were killed have left, and returns how much that is.
func cleanUnfinished(store *cache.Cache, dryRun bool) (n int, err error) {
	dir := filepath.Join(store.Dir(), fetchedDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	for _, e := range entries {
		temporary, abandoned := atomicfile.Abandoned(e.Name())
		if !temporary && !strings.HasPrefix(e.Name(), atomicfile.LayerPrefix) {
			continue
		}
		info, infoErr := e.Info()
		if infoErr != nil || !abandoned && time.Since(info.ModTime()) < unfinishedAge {
			continue
		}
		if !dryRun {
			if removeErr := os.RemoveAll(filepath.Join(dir, e.Name())); removeErr != nil {
				err = errors.Join(err, removeErr)
				continue
			}
		}
		n++
	}
	return n, err
}

// defaultKeep is how much of them stays where nobody says.
const defaultKeep = 50 << 30
