package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Where our runs keep what they write. Others are measured on disk only.
const (
	placeDisk    = "disk"
	placeTmpfs   = "tmpfs"
	placeReflink = "reflink" // an XFS in a file, whose blocks files may share
)

// place is a directory on a file system of some kind.
type place struct{ name, dir string }

// places are the directories of a run. They are removed by close.
type places struct {
	disk    string
	others  []place
	undo    []func() error
	without bool // the run does not use disk for ours
}

// all returns the places for our runs.
func (p *places) all() []place {
	if p.without {
		return p.others
	}
	return append([]place{{placeDisk, p.disk}}, p.others...)
}

func (p *places) close() error {
	var errs []error
	for _, f := range slices.Backward(p.undo) {
		errs = append(errs, f())
	}
	p.undo = nil
	return errors.Join(errs...)
}

// makePlaces makes those places that can be had.
func makePlaces(ctx context.Context, dir string, names []string, stderr io.Writer) (p places, err error) {
	if p.disk, err = os.MkdirTemp(dir, "hpcimg-bench-"); err != nil {
		return p, err
	}
	p.undo = append(p.undo, func() error { return os.RemoveAll(p.disk) })
	p.without = !slices.Contains(names, placeDisk)
	if slices.Contains(names, placeTmpfs) {
		const shm = "/dev/shm"
		if tmp, err := os.MkdirTemp(shm, "hpcimg-bench-"); err != nil {
			fmt.Fprintf(stderr, "bench: no runs on tmpfs: %v\n", err)
		} else {
			p.undo = append(p.undo, func() error { return os.RemoveAll(tmp) })
			p.others = append(p.others, place{placeTmpfs, tmp})
		}
	}
	if slices.Contains(names, placeReflink) {
		mounted, err := p.mountXFS(ctx)
		if ctx.Err() != nil {
			return p, ctx.Err()
		}
		if err != nil {
			fmt.Fprintf(stderr, "bench: no runs on a file system with reflinks: %v\n", err)
		} else {
			p.others = append(p.others, place{placeReflink, mounted})
		}
	}
	return p, nil
}

// mountXFS mounts an XFS that is in a sparse file.
func (p *places) mountXFS(ctx context.Context) (string, error) {
	file, dir := filepath.Join(p.disk, "xfs.img"), filepath.Join(p.disk, "xfs")
	f, err := os.Create(file)
	if err != nil {
		return "", err
	}
	if err := errors.Join(f.Truncate(24<<30), f.Close(), os.Mkdir(dir, 0o755)); err != nil {
		return "", err
	}
	for _, argv := range [][]string{{"mkfs.xfs", "-q", "-m", "reflink=1", file}, {"mount", "-o", "loop", file, dir}} {
		// Not the context: what is half mounted cannot be undone.
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", argv[0], err, strings.TrimSpace(string(out)))
		}
	}
	p.undo = append(p.undo, func() error {
		out, err := exec.Command("umount", dir).CombinedOutput()
		if err != nil {
			return fmt.Errorf("umount %s: %w: %s", dir, err, strings.TrimSpace(string(out)))
		}
		return nil
	})
	return dir, ctx.Err()
}
