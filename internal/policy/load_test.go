package policy_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/tools/go/packages"

	"hpcimg/internal/oracle"
)

const module = "hpcimg"

// goCommand runs the go command in dir ("" is the root of the repository) and returns its standard output.
func goCommand(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	if dir == "" {
		dir = root(t)
	}
	var stdout, stderr strings.Builder
	cmd := exec.Command(oracle.Tool(t, "go"), args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v go %s: %v\n%s%s", env, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// root is the directory of go.mod. Every test of this package comes through here.
func root(t *testing.T) string {
	t.Helper()
	oracle.Once(t)
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			err = errors.New("no go.mod above")
		}
		dir = filepath.Dir(dir)
	}
	t.Fatal(err)
	return ""
}

// short is a package's path below the module: "." for the module's own package.
func short(path string) string {
	if path == module {
		return "."
	}
	return strings.TrimPrefix(path, module+"/")
}

func isOurs(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

func isStd(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !isOurs(path) && !strings.Contains(first, ".")
}

// isPublic says whether other modules are meant to import the package.
func isPublic(short string) bool {
	return !slices.Contains(strings.Split(short, "/"), "internal") && !strings.HasPrefix(short, "examples/")
}

// listed is what `go list -json` says of a package.
type listed struct {
	ImportPath, Dir, Name     string
	Imports, TestImports      []string
	GoFiles, IgnoredGoFiles   []string
	TestGoFiles, XTestGoFiles []string
	Deps                      []string
}

// listPackages lists the module's packages as they are built in an environment. It is not the place to learn that a package
// does not compile.
func listPackages(t *testing.T, env ...string) []listed {
	t.Helper()
	var all []listed
	dec := json.NewDecoder(strings.NewReader(goCommand(t, "", env, "list", "-e", "-json", "./...")))
	for {
		var p listed
		err := dec.Decode(&p)
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// sourceFile is one parsed file, whatever system it is for.
type sourceFile struct {
	path string // below the root
	pkg  string // as short gives it
	test bool
	*ast.File
}

func (f sourceFile) main() bool { return f.Name.Name == "main" }

// parseAll parses every Go file of the module, those for other systems included.
func parseAll(t *testing.T) (*token.FileSet, []sourceFile) {
	t.Helper()
	dir := root(t)
	fset := token.NewFileSet()
	var files []sourceFile
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if d.Name() == "testdata" || rel != "." && strings.HasPrefix(d.Name(), ".") || rel == "internal/tools" {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(filepath.Dir(rel))
		files = append(files, sourceFile{rel, pkg, strings.HasSuffix(rel, "_test.go"), f})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no Go files found")
	}
	return fset, files
}

// loaded is the result of loading the library's packages, which takes seconds and is needed several times.
var loaded struct {
	once sync.Once
	pkgs []*packages.Package
	err  error
}

// typed loads the library's packages with their types, as they are built for Linux. Commands are left out.
func typed(t *testing.T) []*packages.Package {
	t.Helper()
	dir := root(t)
	var paths []string
	for _, p := range listPackages(t, "GOOS=linux", "CGO_ENABLED=0") {
		if p.Name != "main" {
			paths = append(paths, p.ImportPath)
		}
	}
	loaded.once.Do(func() {
		loaded.pkgs, loaded.err = packages.Load(&packages.Config{
			Mode: packages.LoadSyntax, Dir: dir, Env: append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0"),
		}, paths...)
	})
	if loaded.err != nil {
		t.Fatal(loaded.err)
	}
	for _, p := range loaded.pkgs {
		for _, err := range p.Errors {
			t.Errorf("%s: %v", p.PkgPath, err)
		}
	}
	if len(loaded.pkgs) == 0 || t.Failed() {
		t.Fatal("the module does not load")
	}
	return loaded.pkgs
}

// exceptions is a table of what a rule allows, by what it allows, with the reason. It notes what was used.
type exceptions struct {
	reasons map[string]string
	used    map[string]bool
}

func allow(reasons map[string]string) *exceptions {
	return &exceptions{reasons: reasons, used: make(map[string]bool)}
}

func (e *exceptions) has(key string) bool {
	_, ok := e.reasons[key]
	e.used[key] = ok
	return ok
}

// done reports exceptions that nothing needed.
func (e *exceptions) done(t *testing.T) {
	t.Helper()
	for key, reason := range e.reasons {
		if !e.used[key] {
			t.Errorf("the exception for %s is not needed any more", key)
		}
		if reason == "" {
			t.Errorf("the exception for %s has no reason", key)
		}
	}
}
