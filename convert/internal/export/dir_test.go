package export_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/convert/internal/export"
	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// names returns what is in a directory.
func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range found {
		all = append(all, e.Name())
	}
	return all
}

func onlyName(t *testing.T, dir, want string) {
	t.Helper()
	if all := names(t, dir); strings.Join(all, ",") != want {
		t.Errorf("%q is left, want %q", all, want)
	}
}

func TestDir(t *testing.T) {
	oracle.Root(t)
	r := image(t, append(sample(), testtree.Dir(".", 0o751, testtree.Owner(5, 6))))
	parent := t.TempDir()
	name := filepath.Join(parent, strings.Repeat("n", 250))
	for _, o := range []*export.DirOptions{nil, {Replace: true, Workers: 1}} {
		if _, err := export.Dir(t.Context(), name, r, o); err != nil {
			t.Fatal(err)
		}
		got, err := testtree.Walk(name)
		if err != nil {
			t.Fatal(err)
		}
		same(t, listing(t, r), got)
		onlyName(t, parent, filepath.Base(name))
	}
}

// TestDirReplaces has something in the place of the directory.
func TestDirReplaces(t *testing.T) {
	tree := testtree.Tree{testtree.Dir("locked", 0), testtree.File("locked/f", 0, "x"), testtree.File("f", 0o644, "x")}
	for i := range tree {
		owned()(&tree[i])
	}
	r := image(t, tree)
	for what, make := range map[string]func(name string) error{
		"nothing": func(string) error { return nil },
		"directory": func(name string) error {
			if err := os.MkdirAll(filepath.Join(name, "a/b"), 0o755); err != nil {
				return err
			}
			return os.Chmod(filepath.Join(name, "a"), 0)
		},
		"file": func(name string) error { return os.WriteFile(name, nil, 0o600) },
		"link": func(name string) error { return os.Symlink("/nonexistent", name) },
	} {
		t.Run(what, func(t *testing.T) {
			parent := t.TempDir()
			name := filepath.Join(parent, "image")
			if err := make(name); err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(name)
			if _, err := export.Dir(t.Context(), name, r, nil); what != "nothing" && !errors.Is(err, fs.ErrExist) {
				t.Errorf("error %v", err)
			}
			if after, _ := os.Lstat(name); before != nil && !os.SameFile(before, after) {
				t.Error("something has been replaced")
			}
			// Twice, as what is in the image is as hard to remove as anything.
			for range 2 {
				res, err := export.Dir(t.Context(), name, r, &export.DirOptions{Replace: true})
				if err != nil {
					t.Fatal(err)
				}
				if res.Left != "" {
					t.Errorf("left %s: %v", res.Left, res.Old)
				}
				onlyName(t, parent, "image")
				if _, err := os.Lstat(filepath.Join(name, "f")); err != nil {
					t.Error(err)
				}
			}
			if err := os.Chmod(filepath.Join(name, "locked"), 0o700); err != nil {
				t.Error(err)
			}
		})
	}
}

// owned makes an entry belong to whoever runs the test.
func owned() testtree.Option { return testtree.Owner(os.Geteuid(), os.Getegid()) }

// TestDirFails leaves nothing, whatever has been made by then.
func TestDirFails(t *testing.T) {
	r := image(t, testtree.Tree{
		testtree.Dir("a", 0), testtree.File("a/f", 0, "x"), testtree.Dir("b", 0o500), testtree.File("b/f", 0o400, "x"),
		testtree.File("large", 0o644, testtree.Bytes(1, 8<<20)),
	})
	parent := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := export.Dir(ctx, filepath.Join(parent, "image"), r, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	onlyName(t, parent, "")
	deep := entries(t, squashfs.Entry{Path: "x/locked/f", Size: 8}, squashfs.Entry{Path: "x/locked", Mode: fs.ModeDir}, squashfs.Entry{Path: strings.Repeat("z/", 1000)})
	if _, err := export.Dir(t.Context(), filepath.Join(parent, "image"), deep, nil); !errors.Is(err, squashfs.ErrLimit) {
		t.Errorf("too deep: %v", err)
	}
	onlyName(t, parent, "")
	if _, err := export.Dir(t.Context(), "/", r, &export.DirOptions{Replace: true}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("root: %v", err)
	}
	if _, err := export.Dir(t.Context(), filepath.Join(parent, "no/such"), r, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no parent: %v", err)
	}
}
