package rules

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
)

// Hard limits of sizes in lines; what to aim for is in CONTRIBUTING.md.
const (
	maxFileLines         = 700
	maxFunctionLines     = 80
	maxTestFunctionLines = 150 // tables are long
)

func checkSizes(f file) []string {
	if !f.isGo() {
		return nil
	}
	var wrong []string
	if n := strings.Count(f.text, "\n"); n > maxFileLines {
		wrong = append(wrong, fmt.Sprintf("has %d lines, at most %d", n, maxFileLines))
	}
	limit := maxFunctionLines
	if f.isTest() {
		limit = maxTestFunctionLines
	}
	for _, decl := range f.code.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if ok && f.lines(fn) > limit {
			wrong = append(wrong, fmt.Sprintf("function %s has %d lines, at most %d", fn.Name.Name, f.lines(fn), limit))
		}
	}
	return wrong
}

// checkNames refuses names that say nothing about what is inside.
func checkNames(f file) []string {
	empty := []string{"util", "utils", "common", "helper", "helpers", "misc", "lib"}
	var wrong []string
	for part := range strings.SplitSeq(f.path, "/") {
		name, _, _ := strings.Cut(part, ".")
		name = strings.TrimSuffix(strings.TrimSuffix(name, "_test"), "_linux")
		if slices.Contains(empty, name) {
			wrong = append(wrong, fmt.Sprintf("the name %q does not say what is inside", name))
		}
	}
	return wrong
}

// checkInit refuses init functions: nothing happens by import.
func checkInit(f file) []string {
	if !f.isGo() || f.isTest() {
		return nil
	}
	var wrong []string
	for _, decl := range f.code.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			wrong = append(wrong, "has an init function")
		}
	}
	return wrong
}

// checkState refuses package variables that change. It sees assignments in the file that declares
// the variable, and variables whose type is made for change. Failpoints are the one exception: they
// stand for the process that dies.
func checkState(f file) []string {
	if !f.isGo() || f.isTest() || within(path.Dir(f.path), "backend/internal/failpoint") {
		return nil
	}
	vars := packageVars(f.code)
	var wrong []string
	for name, spec := range vars {
		if sel, ok := spec.Type.(*ast.SelectorExpr); ok && isIdent(sel.X, "sync", "atomic") {
			wrong = append(wrong, fmt.Sprintf("package variable %s is made to change", name))
		}
	}
	for _, decl := range f.code.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			for _, target := range targets(n) {
				id := root(target)
				if id != nil && id.Obj != nil && vars[id.Name] != nil && id.Obj.Decl == vars[id.Name] {
					wrong = append(wrong, fmt.Sprintf("function %s changes the package variable %s", fn.Name.Name, id.Name))
				}
			}
			return true
		})
	}
	return wrong
}

// packageVars lists the variables of a file's top level.
func packageVars(code *ast.File) map[string]*ast.ValueSpec {
	vars := map[string]*ast.ValueSpec{}
	for _, decl := range code.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.VAR {
			continue
		}
		for _, s := range gen.Specs {
			spec, ok := s.(*ast.ValueSpec)
			if !ok {
				continue
			}
			for _, name := range spec.Names {
				vars[name.Name] = spec
			}
		}
	}
	return vars
}

// targets are the expressions that a statement changes.
func targets(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		return n.Lhs
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	}
	return nil
}

// root is the variable at the left end of x.y[z], nil if there is none.
func root(e ast.Expr) *ast.Ident {
	switch e := e.(type) {
	case *ast.Ident:
		return e
	case *ast.SelectorExpr:
		return root(e.X)
	case *ast.IndexExpr:
		return root(e.X)
	case *ast.StarExpr:
		return root(e.X)
	}
	return nil
}

func isIdent(e ast.Expr, names ...string) bool {
	id, ok := e.(*ast.Ident)
	return ok && slices.Contains(names, id.Name)
}

// checkSkips wants a reason for each skipped test.
func checkSkips(f file) []string {
	if !f.isGo() {
		return nil
	}
	var wrong []string
	ast.Inspect(f.code, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !isIdent(sel.X, "t", "b", "tb", "f") {
			return true
		}
		if sel.Sel.Name == "SkipNow" || sel.Sel.Name == "Skip" && len(call.Args) == 0 {
			wrong = append(wrong, fmt.Sprintf("line %d skips without a reason", f.set.Position(call.Pos()).Line))
		}
		return true
	})
	return wrong
}

// checkPlatform wants code for one system in files that say so by their name.
func checkPlatform(f file) []string {
	if !f.isGo() {
		return nil
	}
	base := strings.TrimSuffix(strings.TrimSuffix(path.Base(f.path), ".go"), "_test")
	var wrong []string
	for line := range strings.SplitSeq(f.text, "\n") {
		if strings.HasPrefix(line, "package ") {
			break
		}
		constraint, ok := strings.CutPrefix(line, "//go:build ")
		if ok && strings.Contains(constraint, "linux") && !strings.HasSuffix(base, "_other") && !strings.HasSuffix(base, "_linux") {
			wrong = append(wrong, "is for one system, but not called *_linux.go or *_other.go")
		}
	}
	return wrong
}

func goRules() []rule {
	long := "package p\nfunc f() {\n" + strings.Repeat("_ = 0\n", maxFunctionLines) + "}\n"
	return []rule{
		{
			name: "sizes", check: checkSizes,
			bad:  example{"p/x.go", long},
			good: example{"p/x_test.go", long},
		},
		{
			name: "names", check: checkNames,
			bad:  example{"p/utils_linux.go", "package p\n"},
			good: example{"p/commonplace.go", "package p\n"},
		},
		{
			name: "no init", check: checkInit,
			bad:  example{"p/x.go", "package p\nfunc init() {}\n"},
			good: example{"p/x.go", "package p\ntype x int\nfunc (x) init() {}\n"},
		},
		{
			name: "no package state", check: checkState,
			bad:  example{"p/x.go", "package p\nvar n = map[int]int{}\nfunc f() { n[1]++ }\n"},
			good: example{"p/x.go", "package p\nvar n = 1\nfunc f() int { n := 2; n++; return n }\n"},
		},
		{
			name: "skips have reasons", check: checkSkips,
			bad:  example{"p/x_test.go", "package p\nfunc TestX(t *testing.T) { t.SkipNow() }\n"},
			good: example{"p/x_test.go", "package p\nfunc TestX(t *testing.T) { t.Skip(\"no moon\") }\n"},
		},
		{
			name: "systems by file name", check: checkPlatform,
			bad:  example{"p/x.go", "//go:build linux\n\npackage p\n"},
			good: example{"p/x_other.go", "//go:build !linux\n\npackage p\n"},
		},
	}
}
