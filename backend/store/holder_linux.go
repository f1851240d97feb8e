package store

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// HeldBy says which process has the store in root open, as people want to read it; "" if none can be seen. It takes no lock.
func HeldBy(root string) string {
	f, err := os.Open(filepath.Join(root, lockFile))
	if err != nil {
		return ""
	}
	defer f.Close()
	return seenHolder(f)
}

// holder says which process has the lock on a file, even if it cannot be seen.
func holder(f *os.File) string {
	if seen := seenHolder(f); seen != "" {
		return seen
	}
	return "one that cannot be seen from here, as in another container"
}

// seenHolder says which process has the lock on a file. The kernel tells only about processes that this one can see, by
// the numbers that they have here; "" for any other, and for none.
func seenHolder(f *os.File) string {
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	table, err := os.ReadFile("/proc/locks")
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(table) {
		if pid := flocker(line, info); pid != 0 && hasOpen(pid, info) {
			return fmt.Sprintf("process %d (%s)", pid, command(pid))
		}
	}
	return ""
}

// flocker returns the process that has a lock by flock(2) on a file, according to a line of /proc/locks, or 0. The line
// has the inode's number, and a device that is not always the one that stat(2) tells:
//
//	1: FLOCK  ADVISORY  WRITE 1234 fd:00:5678 0 EOF
func flocker(line []byte, file os.FileInfo) int {
	fields := strings.Fields(string(line))
	st, ok := file.Sys().(*syscall.Stat_t)
	if !ok || len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], ":"+strconv.FormatUint(st.Ino, 10)) {
		return 0
	}
	pid, err := strconv.Atoi(fields[4])
	if err != nil {
		return 0
	}
	return pid
}

// hasOpen reports whether a process has a file open.
func hasOpen(pid int, file os.FileInfo) bool {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // the pattern is right
	for _, link := range links {
		if other, err := os.Stat(link); err == nil && os.SameFile(file, other) {
			return true
		}
	}
	return false
}

// command returns the command line of a process, or the beginning of a long one.
func command(pid int) string {
	const most = 200
	f, err := os.Open(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "it has just ended"
	}
	defer f.Close()
	text := make([]byte, most)
	n, _ := io.ReadFull(f, text) // of a process that has just ended there is nothing
	line := strings.ToValidUTF8(string(bytes.TrimSpace(bytes.ReplaceAll(text[:n], []byte{0}, []byte{' '}))), "?")
	if n == most {
		line += "..."
	}
	return line
}
