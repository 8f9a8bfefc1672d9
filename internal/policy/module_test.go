package policy_test

import (
	"encoding/json"
	"go/ast"
	"go/doc"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"

	"hpcimg/internal/oracle"
)

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root(t), filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// goMod is go.mod as `go mod edit -json` prints it.
type goMod struct {
	Go      string
	Require []struct {
		Path     string
		Indirect bool
	}
	Replace, Exclude []json.RawMessage
}

func readGoMod(t *testing.T, file string) (m goMod) {
	t.Helper()
	if err := json.Unmarshal([]byte(goCommand(t, "", nil, "mod", "edit", "-json", file)), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func directModules(t *testing.T) map[string]bool {
	t.Helper()
	direct := make(map[string]bool)
	for _, r := range readGoMod(t, "go.mod").Require {
		if !r.Indirect {
			direct[r.Path] = true
		}
	}
	return direct
}

// TestNoReplace: replace directives of a library do not reach those who import it, so that they would build something else.
func TestNoReplace(t *testing.T) {
	for _, file := range []string{"go.mod", "internal/tools/go.mod"} {
		m := readGoMod(t, file)
		if len(m.Replace) > 0 || len(m.Exclude) > 0 {
			t.Errorf("%s has replace or exclude directives", file)
		}
	}
}

// TestNoGPL: CalebQ42/squashfs links GPL code. A program gets it by importing our adapter, never unasked.
func TestNoGPL(t *testing.T) {
	const gpl, adapter = "github.com/rasky/go-lzo", "squashfs/calebq42"
	for _, p := range listPackages(t, "GOOS=linux", "CGO_ENABLED=0") {
		links := slices.Contains(p.Deps, gpl) || slices.Contains(p.Deps, "github.com/CalebQ42/squashfs")
		if links && short(p.ImportPath) != adapter {
			t.Errorf("%s links %s", short(p.ImportPath), gpl)
		}
	}
}

// anywhere are the packages that a program on any system may import.
var anywhere = []string{"image", "convert", "sif", "squashfs", "sign"}

// TestLeavesCompileAnywhere checks the types of the packages and of all that they import, from source: compiling the standard
// library for each system would take minutes.
func TestLeavesCompileAnywhere(t *testing.T) {
	oracle.Short(t, "reads the standard library for other systems")
	var patterns []string
	for _, p := range anywhere {
		patterns = append(patterns, "./"+p+"/...")
	}
	for _, system := range []string{"darwin/arm64", "windows/amd64"} {
		t.Run(system, func(t *testing.T) {
			goos, goarch, _ := strings.Cut(system, "/")
			pkgs, err := packages.Load(&packages.Config{
				Mode: packages.NeedName | packages.NeedFiles | packages.NeedImports | packages.NeedDeps | packages.NeedTypes |
					packages.NeedSyntax | packages.NeedTypesSizes,
				Dir: root(t), Env: append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0"),
			}, patterns...)
			if err != nil {
				t.Fatal(err)
			}
			if len(pkgs) < len(anywhere) {
				t.Errorf("only %d packages match %q", len(pkgs), patterns)
			}
			packages.Visit(pkgs, nil, func(p *packages.Package) {
				for _, err := range p.Errors {
					t.Errorf("%s: %v", p.PkgPath, err)
				}
			})
		})
	}
}

// TestExamplesHaveOutput: an example without is compiled and never run.
func TestExamplesHaveOutput(t *testing.T) {
	_, files := parseAll(t)
	for _, f := range files {
		if !f.test {
			continue
		}
		for _, ex := range doc.Examples([]*ast.File{f.File}...) {
			if ex.Output == "" && !ex.EmptyOutput {
				t.Errorf("%s: Example%s has no Output", f.path, ex.Name)
			}
		}
	}
}

func TestChangelog(t *testing.T) {
	if !strings.Contains(readFile(t, "CHANGELOG.md"), "\n## [Unreleased]\n") {
		t.Error("CHANGELOG.md has no section Unreleased")
	}
}

// TestGateRunsTheTestCommand keeps what users are told to run and what the gate runs the same.
func TestGateRunsTheTestCommand(t *testing.T) {
	const command = "scripts/test"
	lines := strings.Split(strings.TrimSpace(readFile(t, ".ci/run")), "\n")
	if last := lines[len(lines)-1]; last != "exec "+command {
		t.Errorf(".ci/run ends with %q, not with %s", last, command)
	}
	for _, file := range []string{"README.md", "CONTRIBUTING.md"} {
		if !strings.Contains(readFile(t, file), command) {
			t.Errorf("%s does not name %s", file, command)
		}
	}
}
