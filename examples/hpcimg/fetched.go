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
	"hpcimg/sif"
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
	return f.fetchedFile(cmd.Context(), store, source, manifest)
}

// fetchedLayers is fetched for an OCI-SIF file.
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
	source, err := f.sifInput(cmd.Context(), file)
	if err != nil {
		return "", err
	}
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	container, err := sif.NewFile(file, info.Size())
	if err != nil {
		return "", err
	}
	img, err := convert.OCIImage(container)
	if err != nil {
		return "", err
	}
	return f.fetchedFile(cmd.Context(), store, source, img.Descriptor())
}

// fetchedStore opens the cache, without which an image in layers cannot be run.
func (f *flags) fetchedStore(ref string) (*cache.Cache, error) {
	store, err := f.openCache(f.std.err)
	if err == nil && store == nil {
		err = usagef("%s: images in layers are run from the cache, and there is none: make a SIF file of it first (hpcimg pull %s)", ref, ref)
	}
	return store, err
}

// fetchedFile returns the path of the SIF file in the cache that an image is, which it makes if need be: once, whoever else wants it.
func (f *flags) fetchedFile(ctx context.Context, store *cache.Cache, source *convert.Source, manifest image.Descriptor) (string, error) {
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
