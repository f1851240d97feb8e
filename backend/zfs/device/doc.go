// Package device is a client of the kernel's ZFS: requests to /dev/zfs. It knows nothing of layers.
//
// For two requests zfs(8) has no command: the objects that changed between two snapshots, and the path of an object.
// `zfs diff` is made of the first and of a relative of the second, but leaves out without a word what it finds no path
// for. The others are what layers are made of every time, and zfs(8) takes long for them: to make a clone it first asks
// the kernel for the names of all other clones, so that it takes the longer the more children a layer has.
//
// The arguments are the kernel's own structure, which is private to OpenZFS. Of the fields used here only one could be
// elsewhere without an error that says so: where the kernel finds the file to write changed objects to. [Device.Probe]
// asks.
//
// What a request has made or destroyed is on disk when it returns.
package device
