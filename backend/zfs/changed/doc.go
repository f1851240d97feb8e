// Package changed finds, in a mounted ZFS dataset, the files whose objects the kernel says have changed since a snapshot
// (device.Changed), and the directories above them, so that a comparison of two trees can pass over all else.
//
// A path of an object is asked of the kernel (device.Path), which knows of each file the directory where it got its last
// name. If that name is gone but others are left, or if a file that has several names changed, the names of all files are
// read, without looking at the files.
//
// Nothing is written. The functions may be called concurrently; memory grows with the number of objects, not with the
// tree. Errors are those of the kernel, with the path.
package changed
