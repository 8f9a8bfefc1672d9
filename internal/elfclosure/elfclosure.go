package elfclosure

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// NotFoundError says which library of which file is in none of the places where
// it was looked for. errors.Is(err, fs.ErrNotExist) holds.
type NotFoundError struct {
	Library string
	By      string // the file that needs it
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("%s: needs %s, which is in no library directory", e.By, e.Library)
}

// Unwrap returns fs.ErrNotExist.
func (e *NotFoundError) Unwrap() error { return fs.ErrNotExist }

// Closure returns the absolute paths of programs and of everything that ld.so
// would load for them, sorted and each once, under the names by which they are
// looked for. Files that are not ELF, such as scripts, stand for themselves.
func Closure(programs ...string) ([]string, error) {
	s := search{seen: map[string]bool{}}
	var err error
	if s.dirs, err = libraryDirs(); err != nil {
		return nil, err
	}
	for _, p := range programs {
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, err
		}
		if err := s.add(abs, nil); err != nil {
			return nil, err
		}
	}
	return s.sorted(), nil
}

// search is one run of Closure.
type search struct {
	seen map[string]bool
	dirs []string // where ld.so looks by default
}

func (s *search) sorted() []string {
	paths := make([]string, 0, len(s.seen))
	for p := range s.seen {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

// add takes path, and what it needs; inherited are the DT_RPATH directories of
// those that need it.
func (s *search) add(path string, inherited []string) error {
	if s.seen[path] {
		return nil
	}
	s.seen[path] = true
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	file, err := elf.NewFile(f)
	if err != nil {
		if _, ok := errors.AsType[*elf.FormatError](err); ok || errors.Is(err, io.EOF) {
			return nil
		}
		return fmt.Errorf("%s: %w", path, err)
	}
	if interp := interpreter(file); interp != "" {
		if err := s.add(interp, nil); err != nil {
			return err
		}
	}
	return s.addNeeded(path, file, inherited)
}

func (s *search) addNeeded(path string, file *elf.File, inherited []string) error {
	needed, err := file.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	runpath := dirList(path, file, elf.DT_RUNPATH)
	rpath := inherited
	if len(runpath) == 0 {
		// DT_RPATH counts for libraries further down too, but not beside DT_RUNPATH.
		rpath = append(dirList(path, file, elf.DT_RPATH), inherited...)
	}
	for _, lib := range needed {
		found, err := s.find(lib, file, slices.Concat(rpath, runpath, s.dirs))
		if err != nil {
			return err
		}
		if found == "" {
			return &NotFoundError{Library: lib, By: path}
		}
		if err := s.add(found, rpath); err != nil {
			return err
		}
	}
	return nil
}

// find returns the first file called lib that file could load, or "".
func (s *search) find(lib string, file *elf.File, dirs []string) (string, error) {
	if strings.Contains(lib, "/") {
		return lib, nil
	}
	for _, dir := range dirs {
		p := filepath.Join(dir, lib)
		same, err := sameMachine(p, file)
		if err != nil {
			return "", err
		}
		if same {
			return p, nil
		}
	}
	return "", nil
}

// sameMachine reports whether the file at path can be loaded into a process of
// file: multiarch machines have several of one name.
func sameMachine(path string, file *elf.File) (bool, error) {
	lib, err := elf.Open(path)
	if err != nil {
		if _, ok := errors.AsType[*elf.FormatError](err); ok || errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.EOF) {
			return false, nil // a linker script, say
		}
		return false, err
	}
	defer lib.Close()
	return lib.Class == file.Class && lib.Machine == file.Machine, nil
}

// interpreter returns the path in PT_INTERP, or "".
func interpreter(file *elf.File) string {
	for _, p := range file.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			return ""
		}
		return strings.TrimRight(string(b), "\x00")
	}
	return ""
}

// dirList returns the directories of a DT_RPATH or DT_RUNPATH entry.
func dirList(path string, file *elf.File, tag elf.DynTag) []string {
	values, err := file.DynString(tag)
	if err != nil {
		return nil
	}
	var dirs []string
	for _, value := range values {
		for dir := range strings.SplitSeq(value, ":") {
			for _, origin := range []string{"$ORIGIN", "${ORIGIN}"} {
				dir = strings.ReplaceAll(dir, origin, filepath.Dir(path))
			}
			if filepath.IsAbs(dir) {
				dirs = append(dirs, filepath.Clean(dir))
			}
		}
	}
	return dirs
}

// libraryDirs lists the directories of /etc/ld.so.conf, which are what the cache
// of ldconfig is made from, and then the default ones.
func libraryDirs() ([]string, error) {
	var dirs []string
	if err := readConf("/etc/ld.so.conf", 0, &dirs); err != nil {
		return nil, err
	}
	return append(dirs, "/lib64", "/usr/lib64", "/lib", "/usr/lib"), nil
}

const maxIncludes = 8 // nesting of include lines

func readConf(path string, depth int, dirs *[]string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || depth > maxIncludes {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if pattern, ok := strings.CutPrefix(line, "include "); ok {
			pattern = strings.TrimSpace(pattern)
			if !filepath.IsAbs(pattern) {
				pattern = filepath.Join(filepath.Dir(path), pattern)
			}
			matches, err := filepath.Glob(pattern)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			for _, m := range matches {
				if err := readConf(m, depth+1, dirs); err != nil {
					return err
				}
			}
			continue
		}
		if filepath.IsAbs(line) {
			*dirs = append(*dirs, filepath.Clean(line))
		}
	}
	return nil
}
