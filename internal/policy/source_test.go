package policy_test

import (
	"go/ast"
	"go/token"
	"go/types"
	"path"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

func TestDocFiles(t *testing.T) {
	_, files := parseAll(t)
	has := make(map[string]bool)
	for _, f := range files {
		isDoc := path.Base(f.path) == "doc.go"
		has[f.pkg] = has[f.pkg] || isDoc
		switch {
		case !isDoc && f.Doc != nil:
			t.Errorf("%s has a package comment; it belongs to doc.go", f.path)
		case isDoc && f.Doc == nil:
			t.Errorf("%s has no package comment", f.path)
		case isDoc && len(f.Decls) > 0:
			t.Errorf("%s holds more than the package comment", f.path)
		case isDoc && !f.main() && !strings.HasPrefix(f.Doc.Text(), "Package "+f.Name.Name+" "):
			t.Errorf("%s: the comment does not begin with \"Package %s\"", f.path, f.Name.Name)
		}
	}
	for pkg, ok := range has {
		if !ok {
			t.Errorf("%s has no doc.go", pkg)
		}
	}
}

func TestNoInitAndNoCgo(t *testing.T) {
	_, files := parseAll(t)
	for _, f := range files {
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function: importing a package must have no effect", f.path)
			}
		}
		for _, imp := range f.Imports {
			if imp.Path.Value == `"C"` {
				t.Errorf("%s uses cgo", f.path)
			}
		}
	}
}

// calls of a library that act on the whole process or read what belongs to the program around it.
var processWide = map[string]string{
	"os.Exit":         "ends the caller's program",
	"os.Getenv":       "the environment belongs to the program; take an option",
	"os.LookupEnv":    "the environment belongs to the program; take an option",
	"os.Environ":      "the environment belongs to the program; take an option",
	"os.ExpandEnv":    "the environment belongs to the program; take an option",
	"os.Setenv":       "changes the caller's process",
	"os.Chdir":        "changes the caller's process",
	"syscall.Umask":   "changes the caller's process",
	"unix.Umask":      "changes the caller's process",
	"signal.Notify":   "changes the caller's process",
	"slog.Default":    "take a logger as an option",
	"slog.SetDefault": "changes the caller's process",
	"flag.Parse":      "the command line belongs to the program",
	"panic":           "bytes from outside never panic; return an error",
}

func TestNothingProcessWide(t *testing.T) {
	allowed := allow(map[string]string{
		"internal/oracle os.Getenv": "test support; HPCIMG_REQUIRE is its interface",
		"internal/testtree panic":   "test support; a tree that no tar stream can hold is a mistake in the test",
	})
	fset, files := parseAll(t)
	for _, f := range files {
		if f.test || f.main() {
			continue
		}
		for _, imp := range f.Imports {
			if imp.Path.Value == `"log"` {
				t.Errorf("%s imports log: its logger is the process's, and Fatal ends the caller's program", f.path)
			}
		}
		ast.Inspect(f.File, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			name := callee(call)
			if why, bad := processWide[name]; bad && !allowed.has(f.pkg+" "+name) {
				t.Errorf("%s: %s: %s", at(fset, f, call), name, why)
			}
			return true
		})
	}
	allowed.done(t)
}

// callee is the called function as it is written: f or x.f.
func callee(call *ast.CallExpr) string {
	switch fun := call.Fun.(type) {
	case *ast.Ident:
		return fun.Name
	case *ast.SelectorExpr:
		if x, ok := fun.X.(*ast.Ident); ok {
			return x.Name + "." + fun.Sel.Name
		}
	}
	return ""
}

func at(fset *token.FileSet, f sourceFile, n ast.Node) string {
	pos := fset.Position(n.Pos())
	pos.Filename = f.path
	return pos.String()
}

// TestSkips keeps skips in one place, where HPCIMG_REQUIRE turns them into failures.
func TestSkips(t *testing.T) {
	fset, files := parseAll(t)
	for _, f := range files {
		if f.pkg == "internal/oracle" {
			continue
		}
		tests := make(map[string]bool) // names of parameters that are a test
		ast.Inspect(f.File, func(n ast.Node) bool {
			field, ok := n.(*ast.Field)
			if ok && strings.HasPrefix(strings.TrimPrefix(types.ExprString(field.Type), "*"), "testing.") {
				for _, name := range field.Names {
					tests[name.Name] = true
				}
			}
			return true
		})
		ast.Inspect(f.File, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			receiver, method, _ := strings.Cut(callee(call), ".")
			if tests[receiver] && strings.HasPrefix(method, "Skip") {
				t.Errorf("%s: a skip outside internal/oracle, which nothing can require not to happen", at(fset, f, call))
			}
			return true
		})
	}
}

// TestNoMutableGlobals allows three kinds of variables at package level: errors, assertions that a type has an interface,
// and unexported tables that nothing writes.
func TestNoMutableGlobals(t *testing.T) {
	allowed := allow(map[string]string{
		"internal/golden.update": "a flag of test binaries; no library imports the package",
	})
	for _, p := range typed(t) {
		written := writes(p)
		scope := p.Types.Scope()
		for _, name := range scope.Names() {
			v, ok := scope.Lookup(name).(*types.Var)
			if !ok || isSentinel(v) {
				continue
			}
			key := short(p.PkgPath) + "." + name
			if why := mutable(v, written); why != "" && !allowed.has(key) {
				t.Errorf("%s: variable %s %s", p.Fset.Position(v.Pos()), key, why)
			}
		}
	}
	allowed.done(t)
}

func isSentinel(v *types.Var) bool {
	return strings.HasPrefix(strings.ToLower(v.Name()), "err") && v.Type().String() == "error"
}

func mutable(v *types.Var, written map[types.Object]bool) string {
	if v.Exported() {
		return "is exported and no error"
	}
	if written[v] {
		return "is written after its declaration"
	}
	switch v.Type().Underlying().(type) {
	case *types.Chan:
		return "is a channel: state of the process"
	case *types.Pointer:
		switch v.Type().String() {
		case "*regexp.Regexp", "*strings.Replacer", "*hash/crc32.Table", "*hash/crc64.Table":
			return ""
		}
		return "is a pointer: state of the process"
	case *types.Struct:
		if named, ok := v.Type().(*types.Named); ok && named.Obj().Pkg() != nil && strings.HasPrefix(named.Obj().Pkg().Path(), "sync") {
			return "is of type " + named.String() + ": state of the process"
		}
	}
	return ""
}

// writes returns the package-level variables that the package's functions assign to, in part or whole, or whose address they
// take.
func writes(p *packages.Package) map[types.Object]bool {
	written := make(map[types.Object]bool)
	mark := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.IndexExpr:
				e = x.X
			case *ast.SelectorExpr:
				e = x.X
			case *ast.StarExpr:
				e = x.X
			case *ast.ParenExpr:
				e = x.X
			case *ast.Ident:
				if v, ok := p.TypesInfo.Uses[x].(*types.Var); ok && v.Parent() == p.Types.Scope() {
					written[v] = true
				}
				return
			default:
				return
			}
		}
	}
	for _, f := range p.Syntax {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				for _, lhs := range n.Lhs {
					mark(lhs)
				}
			case *ast.IncDecStmt:
				mark(n.X)
			case *ast.RangeStmt:
				if n.Tok == token.ASSIGN {
					mark(n.Key)
					mark(n.Value)
				}
			case *ast.UnaryExpr:
				if n.Op == token.AND {
					mark(n.X)
				}
			case *ast.CallExpr:
				if name := callee(n); (name == "delete" || name == "clear" || name == "copy") && len(n.Args) > 0 {
					mark(n.Args[0])
				}
			}
			return true
		})
	}
	return written
}
