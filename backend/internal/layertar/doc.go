// Package layertar has no code of its own. Its rooms are, each above the ones before it:
//
//   - tarcodec: tar headers and names, without system calls
//   - openat: files below an open directory
//   - tarlog: the log that gives a tar back byte for byte
//   - pack: changes of a directory as a layer tar
//   - unpack: layer tars into a directory
//   - tartest: what their tests share
package layertar
