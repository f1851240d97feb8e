//go:build !linux

package cli

import (
	"io/fs"
	"os"
)

func newPart(path string) (*part, error) { return named(path) }

func (p *part) publish() error { return p.rename() }

// likeBefore gives a file the mode of the one that it replaces.
func likeBefore(f *os.File, old fs.FileInfo) error { return f.Chmod(old.Mode().Perm()) }

// replaceable: what a file has besides content, owner and mode is known on Linux only.
func replaceable(*os.File, string, fs.FileInfo) (bool, error) { return true, nil }

func inProc(string) bool { return false }

func ownDescriptor(string) (fd int, ok bool) { return 0, false }

func duplicate(fd int) (*os.File, error) { return os.NewFile(uintptr(fd), ""), nil }
