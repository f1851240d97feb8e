package rules

import (
	"fmt"
	"go/ast"
	"path"
	"strings"
)

// kit is where what is hard to get right about descriptors is done once: opening below a directory with what older
// kernels need instead, listing extended attributes of any number, repeating interrupted calls.
const kit = "backend/internal/dirfd"

// kitWords are parts of the names in package unix that belong to the kit, in lower case, with what to take instead.
func kitWords() map[string]string {
	return map[string]string{
		"openat2":   "Dir.OpenBeneath",
		"listxattr": "File.Xattrs",
		"eintr":     "Retry",
	}
}

// outsideKit tells which directories do without the kit: the compiler closes it to the front ends, and tests look at the
// kernel by themselves.
func outsideKit(dir string) bool {
	if strings.HasSuffix(dir, "test") {
		return true
	}
	for _, free := range []string{kit, "plugin", "test", "scripts"} {
		if within(dir, free+"/...") {
			return true
		}
	}
	return false
}

// checkKit keeps the calls of the kit in it.
func checkKit(f file) []string {
	if !f.isGo() || f.isTest() {
		return nil
	}
	var wrong []string
	ast.Inspect(f.code, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok || !isIdent(sel.X, "unix", "syscall") {
			return true
		}
		for word, instead := range kitWords() {
			if strings.Contains(strings.ToLower(sel.Sel.Name), word) && !outsideKit(path.Dir(f.path)) {
				wrong = append(wrong, fmt.Sprintf("line %d uses %s, which is for %s: take its %s",
					f.set.Position(sel.Pos()).Line, sel.Sel.Name, kit, instead))
			}
		}
		return true
	})
	return wrong
}

func kitRules() []rule {
	return []rule{
		{
			name: "descriptors in the kit", check: checkKit,
			bad:  example{"backend/vfs/x.go", "package vfs\nvar _, _ = unix.Openat2(1, \"a\", nil)\n"},
			good: example{kit + "/x.go", "package dirfd\nvar _, _ = unix.Openat2(1, \"a\", nil)\n"},
		},
		{
			name: "attributes in the kit", check: checkKit,
			bad:  example{"backend/internal/tree/x.go", "package tree\nvar _, _ = unix.Flistxattr(1, nil)\n"},
			good: example{"backend/internal/tree/x.go", "package tree\nvar _, _ = unix.Fgetxattr(1, \"user.a\", nil)\n"},
		},
		{
			name: "repeating in the kit", check: checkKit,
			bad:  example{"backend/store/x.go", "package store\nvar again = err == syscall.EINTR\n"},
			good: example{"backend/store/x.go", "package store\nvar again = err == syscall.EINVAL\n"},
		},
	}
}
