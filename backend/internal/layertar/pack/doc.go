// Package pack writes changes as a layer tar: deletions become .wh. files, and files with the same
// inode hard links. The same tree gives the same bytes.
package pack
