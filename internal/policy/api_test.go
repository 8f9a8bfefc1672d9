package policy_test

import (
	"fmt"
	"go/types"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"

	"hpcimg/internal/golden"
)

// foreign are the packages of others that our exported API may name: the types of the field, stable by promise.
var foreign = []string{"github.com/opencontainers/image-spec/", "github.com/opencontainers/go-digest"}

// adapters are named after the foreign types that they show.
var adapters = map[string]string{"image/ggcr": "github.com/google/go-containerregistry/"}

// TestAPI is the golden exported API, a line for each function, method, field, constant and variable.
func TestAPI(t *testing.T) {
	var lines []string
	exported(typed(t), func(p *packages.Package, obj types.Object) {
		for _, line := range describe(obj) {
			lines = append(lines, "pkg "+short(p.PkgPath)+", "+line)
		}
	})
	slices.Sort(lines)
	golden.Check(t, "api.txt", strings.Join(lines, "\n")+"\n")
}

// describe writes an exported object in the manner of the api files of the Go distribution.
func describe(obj types.Object) []string {
	qualify := func(other *types.Package) string {
		if other == obj.Pkg() {
			return ""
		}
		return other.Name()
	}
	str := func(t types.Type) string {
		if sig, ok := t.(*types.Signature); ok && sig.TypeParams().Len() == 0 {
			t = unnamed(sig)
		}
		return types.TypeString(t, qualify)
	}
	switch obj := obj.(type) {
	case *types.Const:
		return []string{fmt.Sprintf("const %s %s = %s", obj.Name(), str(obj.Type()), obj.Val())}
	case *types.Var:
		return []string{fmt.Sprintf("var %s %s", obj.Name(), str(obj.Type()))}
	case *types.Func:
		return []string{"func " + obj.Name() + strings.TrimPrefix(str(obj.Type()), "func")}
	case *types.TypeName:
		return describeType(obj, str)
	}
	return nil
}

// unnamed is a signature without the names of parameters and results, which are no part of the API.
func unnamed(sig *types.Signature) *types.Signature {
	strip := func(tuple *types.Tuple) *types.Tuple {
		var vars []*types.Var
		for v := range tuple.Variables() {
			vars = append(vars, types.NewParam(v.Pos(), v.Pkg(), "", v.Type()))
		}
		return types.NewTuple(vars...)
	}
	return types.NewSignatureType(nil, nil, nil, strip(sig.Params()), strip(sig.Results()), sig.Variadic())
}

func describeType(obj *types.TypeName, str func(types.Type) string) []string {
	named, ok := types.Unalias(obj.Type()).(*types.Named)
	if obj.IsAlias() && !(ok && isOurs(named.Obj().Pkg().Path())) {
		return []string{"type " + obj.Name() + " = " + str(types.Unalias(obj.Type()))}
	}
	name := "type " + str(named)
	if obj.IsAlias() {
		name = "type " + obj.Name() // an internal type under a public name: all of it is API
	}
	var lines []string
	switch u := named.Underlying().(type) {
	case *types.Struct:
		lines = append(lines, name+" struct")
		for f := range u.Fields() {
			switch {
			case f.Embedded():
				lines = append(lines, fmt.Sprintf("%s struct, embedded %s", name, str(f.Type())))
			case f.Exported():
				lines = append(lines, fmt.Sprintf("%s struct, %s %s", name, f.Name(), str(f.Type())))
			}
		}
	case *types.Interface:
		lines = append(lines, name+" interface")
		for m := range u.Methods() {
			lines = append(lines, fmt.Sprintf("%s interface, %s%s", name, m.Name(), strings.TrimPrefix(str(m.Type()), "func")))
		}
	default:
		lines = append(lines, name+" "+str(u))
	}
	for m := range named.Methods() {
		if !m.Exported() {
			continue
		}
		sig := m.Signature()
		recv := strings.Replace(str(sig.Recv().Type()), str(named), strings.TrimPrefix(name, "type "), 1)
		lines = append(lines, fmt.Sprintf("method (%s) %s%s", recv, m.Name(), strings.TrimPrefix(str(sig), "func")))
	}
	return lines
}

// TestForeignTypes: a dependency whose type shows in a signature is one that our users cannot do without, and whose next
// major version is theirs to bear. An internal type may show where an exported alias gives it a name.
func TestForeignTypes(t *testing.T) {
	pkgs := typed(t)
	aliased := make(map[*types.TypeName]bool)
	exported(pkgs, func(_ *packages.Package, obj types.Object) {
		if named, ok := types.Unalias(obj.Type()).(*types.Named); ok && isAlias(obj) {
			aliased[named.Obj()] = true
		}
	})
	exported(pkgs, func(p *packages.Package, obj types.Object) {
		w := walker{own: p.Types, seen: make(map[types.Type]bool), shown: make(map[*types.TypeName]bool)}
		w.object(obj)
		for shown := range w.shown {
			if why := showing(short(p.PkgPath), shown.Pkg().Path()); why != "" && !aliased[shown] {
				t.Errorf("%s.%s shows %s.%s: %s", short(p.PkgPath), obj.Name(), shown.Pkg().Path(), shown.Name(), why)
			}
		}
	})
}

// exported calls f for each exported object of the public packages.
func exported(pkgs []*packages.Package, f func(*packages.Package, types.Object)) {
	for _, p := range pkgs {
		if !isPublic(short(p.PkgPath)) {
			continue
		}
		scope := p.Types.Scope()
		for _, id := range scope.Names() {
			if obj := scope.Lookup(id); obj.Exported() {
				f(p, obj)
			}
		}
	}
}

func isAlias(obj types.Object) bool {
	tn, ok := obj.(*types.TypeName)
	return ok && tn.IsAlias() && isOurs(obj.Pkg().Path())
}

func showing(name, pkg string) string {
	switch {
	case isOurs(pkg):
		if !isPublic(short(pkg)) {
			return "an internal type, which has no name for others"
		}
		return ""
	case isStd(pkg):
		return ""
	}
	allowed := foreign
	if adapter, ok := adapters[name]; ok {
		allowed = append(slices.Clone(foreign), adapter)
	}
	for _, prefix := range allowed {
		if strings.HasPrefix(pkg, prefix) {
			return ""
		}
	}
	return "a type of another module"
}

// walker collects the named types that an exported object shows.
type walker struct {
	own   *types.Package
	seen  map[types.Type]bool
	shown map[*types.TypeName]bool
}

func (w *walker) object(obj types.Object) {
	w.typ(obj.Type())
	if tn, ok := obj.(*types.TypeName); ok && !tn.IsAlias() {
		named := tn.Type().(*types.Named)
		w.typ(named.Underlying())
		for m := range named.Methods() {
			if m.Exported() {
				w.typ(m.Type())
			}
		}
	}
}

func (w *walker) typ(t types.Type) {
	t = types.Unalias(t)
	if t == nil || w.seen[t] {
		return
	}
	w.seen[t] = true
	switch t := t.(type) {
	case *types.Named:
		if pkg := t.Obj().Pkg(); pkg != nil && pkg != w.own {
			w.shown[t.Obj()] = true
		}
		for arg := range t.TypeArgs().Types() {
			w.typ(arg)
		}
	case *types.Signature:
		w.typ(t.Params())
		w.typ(t.Results())
	case *types.Tuple:
		for v := range t.Variables() {
			w.typ(v.Type())
		}
	case *types.Struct:
		for f := range t.Fields() {
			if f.Exported() || f.Embedded() {
				w.typ(f.Type())
			}
		}
	case *types.Interface:
		for m := range t.Methods() {
			w.typ(m.Type())
		}
	case *types.Map:
		w.typ(t.Key())
		w.typ(t.Elem())
	case interface{ Elem() types.Type }: // pointer, slice, array, channel
		w.typ(t.Elem())
	}
}
