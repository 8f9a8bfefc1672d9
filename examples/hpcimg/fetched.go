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

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/image/cache"
	"hpcimg/squashfs"
)

// fetchedDir is where in the cache the SIF files are that exec, run and shell have made of images in layers. A name there is the digest of a
// manifest and this version of how files are made of it.
const (
	fetchedDir    = "images"
	fetchedSuffix = "-1.sif"
	// usedAgain is how often it is noted that one is used.
	usedAgain = time.Hour
)

// openImage opens an image to run something in: a local one, or what its layers make, from the cache if it has been made before.
func (f *flags) openImage(cmd *cobra.Command, ref string) (*localImage, error) {
	if !isRemote(ref) {
		return openLocal(ref)
	}
	path, err := f.fetched(cmd, ref)
	if err != nil {
		return nil, err
	}
	l, err := openLocal(path)
	if err != nil {
		return nil, err
	}
	if r, err := image.ParseReference(ref); err == nil {
		l.name = r.FileName(".sif")
	}
	return l, nil
}

// fetched returns the path of the SIF file that the image ref is in the cache, which it makes if need be: once, whoever else wants it.
func (f *flags) fetched(cmd *cobra.Command, ref string) (string, error) {
	ctx := cmd.Context()
	store, err := f.openCache(f.std.err)
	if err != nil {
		return "", err
	}
	if store == nil {
		return "", usagef("%s: images in layers are run from the cache, and there is none: pull it first (hpcimg pull %s)", ref, ref)
	}
	source, manifest, err := f.openRemote(ctx, ref)
	if err != nil {
		return "", err
	}
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
	return path, f.makeFetched(ctx, store, source, path)
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
	if info, err := os.Stat(path); err == nil && time.Since(accessed(info)) > usedAgain {
		_ = os.Chtimes(path, time.Now(), time.Time{})
	}
}

func accessed(info fs.FileInfo) time.Time {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Atim.Unix())
	}
	return info.ModTime()
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
			files = append(files, cache.Info{Kind: "image", Key: e.Name(), Size: info.Size(), Used: accessed(info), Tier: store.Dir()})
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

// defaultKeep is how much of them stays where nobody says.
const defaultKeep = 50 << 30
