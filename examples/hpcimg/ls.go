package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hpcimg/squashfs"
)

func newLs(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "ls [flags] IMAGE [PATH]",
		Short: "List files of an image, without a mount",
		Args:  cobra.RangeArgs(1, 2),
	}
	f.addJSON(c)
	recursive := c.Flags().BoolP("recursive", "R", false, "list directories below PATH too")
	long := c.Flags().BoolP("long", "l", false, "print mode, owner, size and time")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		l, err := openLocal(args[0])
		if err != nil {
			return err
		}
		defer l.Close()
		name := "."
		if len(args) == 2 {
			name = imagePath(args[1])
		}
		p := lsPrinter{out: cmd.OutOrStdout(), json: f.json, long: *long, terminal: f.isTerminal(cmd.OutOrStdout())}
		if err := list(l.fsys(), name, *recursive, p.print); err != nil {
			return fmt.Errorf("%s: %w", l.path, err)
		}
		return nil
	}
	return c
}

// imagePath turns a path inside an image into a name for fs.FS.
func imagePath(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return "."
	}
	return p
}

// list calls print for name if it is not a directory, or else for what is in it.
func list(fsys fs.FS, name string, recursive bool, print func(string, fs.FileInfo) error) error {
	info, err := lstat(fsys, name)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err := fs.Stat(fsys, name); err == nil && target.IsDir() {
			info = target
		}
	}
	if !info.IsDir() {
		return print(name, info)
	}
	entries, err := fs.ReadDir(fsys, name)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		child := path.Join(name, entry.Name())
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if err := print(child, info); err != nil {
			return err
		}
		if recursive && entry.IsDir() {
			if err := list(fsys, child, true, print); err != nil {
				return err
			}
		}
	}
	return nil
}

func lstat(fsys fs.FS, name string) (fs.FileInfo, error) { return fs.Lstat(fsys, name) }

type lsPrinter struct {
	out        io.Writer
	json, long bool
	terminal   bool // names must not steer it
}

// lsEntry is one line of `ls --json`.
type lsEntry struct {
	Path    string    `json:"path"`
	Mode    string    `json:"mode"`
	UID     *uint32   `json:"uid,omitempty"`
	GID     *uint32   `json:"gid,omitempty"`
	Size    int64     `json:"size"`
	ModTime time.Time `json:"mtime"`
	Target  string    `json:"target,omitempty"`
}

func (p lsPrinter) print(name string, info fs.FileInfo) error {
	if !p.long && !p.json {
		if p.terminal {
			name = printable(name)
		}
		_, err := fmt.Fprintln(p.out, name)
		return err
	}
	e := lsEntry{Path: name, Mode: info.Mode().String(), Size: info.Size(), ModTime: info.ModTime().UTC()}
	owner := "-"
	if si, ok := info.(*squashfs.FileInfo); ok {
		uid, gid := si.UID(), si.GID()
		e.UID, e.GID = &uid, &gid
		e.Target = si.Target()
		owner = fmt.Sprintf("%d/%d", uid, gid)
	}
	if p.json {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.out, "%s\n", line)
		return err
	}
	if e.Target != "" {
		name += " -> " + e.Target
	}
	if p.terminal {
		name = printable(name)
	}
	_, err := fmt.Fprintf(p.out, "%s %-11s %10d %s %s\n", e.Mode, owner, e.Size, e.ModTime.Format("2006-01-02 15:04"), name)
	return err
}

func newCat(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "cat IMAGE PATH",
		Short: "Write a file of an image to standard output",
		Args:  cobra.ExactArgs(2),
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		l, err := openLocal(args[0])
		if err != nil {
			return err
		}
		defer l.Close()
		return catFile(cmd.OutOrStdout(), l, imagePath(args[1]))
	}
	return c
}

func catFile(out io.Writer, l *localImage, name string) error {
	file, err := l.fsys().Open(name)
	if err != nil {
		return fmt.Errorf("%s: %w", l.path, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w", l.path, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: %s: %w", l.path, name, errors.New("not a regular file"))
	}
	if _, err := io.Copy(out, file); err != nil {
		return fmt.Errorf("%s: %s: %w", l.path, name, err)
	}
	return nil
}
