package gpu

import (
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"hpcimg/internal/ldcache"
	hpcrun "hpcimg/runtime"
)

// Host is where devices and libraries are looked for.
type Host struct {
	// Root is a directory that stands for / of the host; empty means /. Symbolic links in it are followed as they are.
	Root string
}

const (
	maxCache = 16 << 20
	maxText  = 1 << 20
)

func (h Host) path(name string) string { return filepath.Join("/", h.Root, name) }

func (h Host) exists(name string) bool {
	_, err := os.Stat(h.path(name))
	return err == nil
}

func (h Host) glob(pattern string) []string {
	matches, _ := filepath.Glob(h.path(pattern)) // the patterns are well-formed
	for i, m := range matches {
		matches[i] = h.relative(m)
	}
	return matches
}

// relative is a path on the host without Root.
func (h Host) relative(name string) string {
	return path.Join("/", strings.TrimPrefix(name, strings.TrimSuffix(h.path("/"), "/")))
}

func (h Host) bind(name string, readOnly bool) hpcrun.Bind {
	return hpcrun.Bind{Source: h.path(name), Target: name, ReadOnly: readOnly}
}

// binds are binds of the names and patterns that exist.
func (h Host) binds(readOnly bool, patterns ...string) []hpcrun.Bind {
	var binds []hpcrun.Bind
	for _, p := range patterns {
		for _, name := range h.glob(p) {
			binds = append(binds, h.bind(name, readOnly))
		}
	}
	return binds
}

func (h Host) read(name string, limit int64) ([]byte, error) {
	f, err := os.Open(h.path(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// libraries returns the paths of libraries by SONAME: the linker's cache, and directories that every linker knows.
func (h Host) libraries(names ...string) map[string]string {
	found := make(map[string]string)
	take := func(name, file string) {
		if _, ok := found[name]; !ok && slices.Contains(names, name) && h.native(file) {
			found[name] = file
		}
	}
	if data, err := h.read("/etc/ld.so.cache", maxCache); err == nil {
		if entries, err := ldcache.Parse(data); err == nil {
			for _, e := range entries {
				take(e.Name, path.Clean(e.Path))
			}
		}
	}
	for _, dir := range libraryDirs() {
		for _, name := range names {
			take(name, path.Join(dir, name))
		}
	}
	return found
}

func libraryDirs() []string {
	dirs := []string{"/usr/lib64", "/lib64", "/usr/lib", "/lib"}
	if triple := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "ppc64le": "powerpc64le", "riscv64": "riscv64"}[runtime.GOARCH]; triple != "" {
		dirs = append([]string{"/usr/lib/" + triple + "-linux-gnu", "/lib/" + triple + "-linux-gnu"}, dirs...)
	}
	return dirs
}

// native says whether a file is an ELF library for this machine: caches list those of others too.
func (h Host) native(name string) bool {
	f, err := elf.Open(h.path(name))
	if err != nil {
		return false
	}
	defer f.Close()
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "ppc64le": elf.EM_PPC64, "riscv64": elf.EM_RISCV}
	return f.Class == elf.ELFCLASS64 && f.Machine == machines[runtime.GOARCH] && f.Type == elf.ET_DYN
}

// soname is the name by which programs look for a library; empty if it has none.
func (h Host) soname(name string) string {
	f, err := elf.Open(h.path(name))
	if err != nil {
		return ""
	}
	defer f.Close()
	names, err := f.DynString(elf.DT_SONAME)
	if err != nil || len(names) == 0 || strings.Contains(names[0], "/") {
		return ""
	}
	return names[0]
}

// pass picks variables of env by name, or by prefix where a pattern ends in *.
func pass(env []string, patterns ...string) []string {
	var picked []string
	for _, kv := range env {
		name, _, ok := strings.Cut(kv, "=")
		if ok && slices.ContainsFunc(patterns, func(p string) bool {
			prefix, isPrefix := strings.CutSuffix(p, "*")
			return name == p || isPrefix && strings.HasPrefix(name, prefix)
		}) {
			picked = append(picked, kv)
		}
	}
	return picked
}

func absent(what string) error {
	return fmt.Errorf("gpu: no %s on this host: %w", what, fs.ErrNotExist)
}
