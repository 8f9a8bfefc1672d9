package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain lets bench start itself, which under test is the test's binary.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == childCommand {
		os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func TestSquashfs(t *testing.T) {
	tmp, result := t.TempDir(), filepath.Join(t.TempDir(), "result.json")
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{
		"squashfs", "-generated", "-size", "1", "-rounds", "2", "-quick", "-workers", "2",
		"-only", "gzip,zstd,lz4,dir,read", "-dir", tmp, "-json", result,
	}, &stdout, &stderr)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	for _, want := range []string{"### Writing gzip", "### Writing zstd", "### Extracting", "| hpcimg "} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, stdout.String())
		}
	}
	checkEmpty(t, tmp)

	data, err := os.ReadFile(result)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	if r.Input.Files == 0 || len(r.Tables) != 5 {
		t.Fatalf("%d files and %d tables", r.Input.Files, len(r.Tables))
	}
	for _, table := range r.Tables {
		for _, res := range table.Results {
			if len(res.Runs) != 2 || res.cpu() <= 0 || res.rss() <= 0 {
				t.Errorf("%s: %s %s: %+v", table.Name, res.Program, res.Setting, res.Runs)
			}
		}
	}
}

func TestTables(t *testing.T) {
	tmp := t.TempDir()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"squashfs", "-generated", "-size", "1", "-rounds", "1", "-only", "tables", "-dir", tmp}, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	if !strings.Contains(stdout.String(), "WriteTables") {
		t.Errorf("output:\n%s", stdout.String())
	}
	checkEmpty(t, tmp)
}

func TestInterrupt(t *testing.T) {
	tmp := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var stdout, stderr bytes.Buffer
	if code := run(ctx, []string{"squashfs", "-generated", "-size", "100", "-dir", tmp}, &stdout, &stderr); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if !strings.HasSuffix(stderr.String(), "bench: interrupted\n") || stdout.Len() > 0 {
		t.Errorf("output:\n%s%s", stdout.String(), stderr.String())
	}
	checkEmpty(t, tmp)
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"nothing", nil, 2, "usage:"},
		{"unknown", []string{"erofs"}, 2, "usage:"},
		{"unknown child", []string{childCommand, "nothing"}, 2, "usage:"},
		{"unknown table", []string{"squashfs", "-only", "xz"}, 2, `no table "xz"`},
		{"no rounds", []string{"squashfs", "-rounds", "0"}, 2, "-rounds"},
		{"argument", []string{"squashfs", "tree"}, 2, "1 arguments instead of 0"},
		{"help", []string{"squashfs", "-h"}, 0, "-quick"},
		{"unknown image", []string{"images", "-only", "base,erofs"}, 2, `no image "erofs"`},
		{"unknown compression", []string{"patch-tuesday", "-compression", "xz"}, 2, `"xz" is none of gzip, zstd`},
		{"unknown program", []string{"patch-tuesday", "-peers", "docker"}, 2, `"docker" is none of apptainer`},
		{"no versions", []string{"patch-tuesday", "-versions", "0"}, 2, "-versions"},
		{"missing archive", []string{"squashfs", "-tar", "does-not-exist.tar"}, 1, "bench: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), tt.args, &stdout, &stderr); code != tt.code {
				t.Errorf("exit code %d instead of %d", code, tt.code)
			}
			if !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("no %q in:\n%s", tt.want, stderr.String())
			}
		})
	}
}

func TestSample(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"a/b/small", "a/large"} {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, make([]byte, 100<<len(name)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("large", filepath.Join(root, "a/link")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := writeSample(t.Context(), &b, []string{root}, 0); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "tree.tar")
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := describeTar(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if got.Files != 2 || got.Links != 1 || got.Small != 1 || got.Bytes != 100<<9+100<<7 || got.Largest != 100<<9 {
		t.Errorf("%+v", got)
	}
}

func checkEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("%s is left in the temporary directory", left[0].Name())
	}
}
