//go:build unix

package regular

import "syscall"

// What Open and OpenOwn add to how a file is opened.
const (
	noWait   = syscall.O_NONBLOCK
	noFollow = syscall.O_NOFOLLOW
)
