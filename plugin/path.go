package plugin

import (
	"path/filepath"
	"strings"
)

// Below returns the part of path that follows dir, "." for dir itself. ok is false for a path that
// does not lie in dir; no path lies in "".
func Below(dir, path string) (rest string, ok bool) {
	if dir == "" {
		return "", false
	}
	rel, err := filepath.Rel(dir, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", false
	}
	return rel, true
}
