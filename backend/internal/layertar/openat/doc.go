// Package openat reaches files below an open directory: without following symlinks, at any depth, and
// where few descriptors are left. It reads and changes their extended attributes.
package openat
