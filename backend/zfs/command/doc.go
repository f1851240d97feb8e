// Package command runs zfs(8) and zpool(8) for what package device does not ask of the kernel.
//
// The tools have to be those of the kernel module's version; they are looked for in PATH. Nothing is kept: the functions
// may be called concurrently. A command ends with its context. An error has the command's own words and what to do about
// them: ErrResourceExhausted for a pool without room, ErrUnavailable for one that is suspended, ErrPermissionDenied, and
// ErrFailedPrecondition for tools that do not fit.
//
// What a command has changed is on disk when it returns, but for zfs unmount, which changes nothing there.
package command
