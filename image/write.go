package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/internal/atomicfile"
)

// WriteLayout adds an image to the OCI image layout in dir, which is created if it does not exist, and returns the image's
// descriptor there. An image that had the tag loses it; without a tag the image is reached by its digest.
//
// Blobs that the layout has are kept as they are. Every blob is verified while it is copied and appears under its name only when it
// is whole; index.json is replaced in one step, last. Any number of writers may add to one layout at a time.
func WriteLayout(ctx context.Context, dir string, img *Image, tag string) (Descriptor, error) {
	d, err := writeLayout(ctx, dir, img, tag)
	if err != nil {
		return Descriptor{}, fmt.Errorf("image: write layout %s: %w", dir, err)
	}
	return d, nil
}

func writeLayout(ctx context.Context, dir string, img *Image, tag string) (Descriptor, error) {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return Descriptor{}, err
	}
	if err := writeVersion(dir); err != nil {
		return Descriptor{}, err
	}
	for _, l := range img.layers {
		open := func() (io.ReadCloser, error) { return openBlob(ctx, img.source, l.Descriptor) }
		if err := writeBlob(ctx, dir, l.Descriptor, open); err != nil {
			return Descriptor{}, fmt.Errorf("layer %d: %w", l.Index, err)
		}
	}
	if err := writeBlob(ctx, dir, img.manifest.Config, opener(img.rawConfig)); err != nil {
		return Descriptor{}, fmt.Errorf("config: %w", err)
	}
	entry := layoutEntry(img, tag)
	if err := writeBlob(ctx, dir, entry, opener(img.rawManifest)); err != nil {
		return Descriptor{}, fmt.Errorf("manifest: %w", err)
	}
	return entry, updateIndex(ctx, dir, entry, tag)
}

// writeVersion writes the file that says that dir is a layout.
func writeVersion(dir string) error {
	raw, err := marshalDocument(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	f, err := atomicfile.Create(filepath.Join(dir, ocispec.ImageLayoutFile), &atomicfile.Options{NoReplace: true})
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.Write(raw); err != nil {
		return err
	}
	if err := f.Commit(); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// writeBlob adds a blob unless the layout has a file of its name and size.
func writeBlob(ctx context.Context, dir string, d Descriptor, open func() (io.ReadCloser, error)) error {
	name := filepath.Join(dir, filepath.FromSlash(blobPath(d.Digest)))
	info, err := os.Lstat(name)
	if err == nil && info.Mode().IsRegular() && info.Size() == d.Size {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	rc, err := open()
	if err != nil {
		return err
	}
	defer rc.Close()
	f, err := atomicfile.Create(name, nil)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := io.Copy(f, &contextReader{ctx: ctx, r: rc}); err != nil {
		return err
	}
	return f.Commit()
}

// updateIndex adds an entry to index.json, under a lock: reading, changing and replacing the file is not one step.
func updateIndex(ctx context.Context, dir string, entry Descriptor, tag string) error {
	unlock, err := lockLayout(ctx, dir)
	if err != nil {
		return err
	}
	defer unlock()
	index := &Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	switch old, err := readLayout(dirFiles(dir), (&Options{}).withDefaults().Limits); {
	case err == nil:
		index = old
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	var kept []Descriptor
	for _, d := range index.Manifests {
		if tag != "" && d.Annotations[ocispec.AnnotationRefName] == tag {
			delete(d.Annotations, ocispec.AnnotationRefName)
		}
		// An entry that would only say again what ours says goes.
		if d.Digest == entry.Digest && d.Annotations[ocispec.AnnotationRefName] == "" {
			continue
		}
		kept = append(kept, d)
	}
	named := func(d Descriptor) bool { return d.Digest == entry.Digest }
	if tag != "" || !slices.ContainsFunc(kept, named) {
		kept = append(kept, entry)
	}
	index.Manifests = kept
	raw, err := marshalDocument(index)
	if err != nil {
		return err
	}
	f, err := atomicfile.Create(filepath.Join(dir, ocispec.ImageIndexFile), nil)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.Write(raw); err != nil {
		return err
	}
	return f.Commit()
}

const (
	lockName = ".index.json.lock"
	// lockStale is far longer than reading and writing one small file takes: whoever holds the lock for so long was killed.
	lockStale = 10 * time.Second
	lockPoll  = 5 * time.Millisecond
)

// lockLayout takes the lock of a layout: a file that O_EXCL lets only one process create, on network file systems too. How long a
// lock has stood is measured by whoever waits for it, because the clocks of two nodes differ.
func lockLayout(ctx context.Context, dir string) (unlock func(), err error) {
	name := filepath.Join(dir, lockName)
	var seen fs.FileInfo
	var since time.Time
	for {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			_ = f.Close()
			return func() { _ = os.Remove(name) }, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		info, err := os.Lstat(name)
		switch {
		case err != nil:
			seen = nil
		case seen == nil || !os.SameFile(seen, info) || !seen.ModTime().Equal(info.ModTime()):
			seen, since = info, time.Now()
		case time.Since(since) > lockStale:
			breakLock(name, seen)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for %s: %w", name, ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}

// breakLock removes a lock whose holder was killed. Renaming settles who of several waiters does it; should the lock have become
// somebody else's in between, it is put back.
func breakLock(name string, stale fs.FileInfo) {
	grave := fmt.Sprintf("%s.stale-%d", name, os.Getpid())
	if os.Rename(name, grave) != nil {
		return
	}
	if info, err := os.Lstat(grave); err == nil && !os.SameFile(info, stale) {
		_ = os.Link(grave, name)
	}
	_ = os.Remove(grave)
}
