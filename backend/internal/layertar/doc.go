// Package layertar has no code of its own. Its rooms are, each above the ones before it:
//
//   - tarcodec: tar headers and names, without system calls
//   - openat: files below an open directory
//   - tarlog: the log that gives a tar back byte for byte
//   - pack: changes of a directory as a layer tar
//   - unpack: the reader of layer tars, which drives a sink
//   - dirsink: a directory as a sink, and as the source that a log is replayed from
//   - tartest: what their tests share
package layertar
