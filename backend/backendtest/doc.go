// Package backendtest tests backends and the store above them.
//
// [Run] is the conformance suite. Every backend passes the same rows, driven through a real
// [store.Store], because that is how a backend is used; where the contract of package backend says
// more than the store asks for, the rows call the backend directly. A backend's own test hands its
// driver to it, on each file system that the driver names ([EachGround]) or on one ([On]):
//
//	func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }
//
//	func TestConformance(t *testing.T) { backendtest.EachGround(t, overlay.Driver(), backendtest.Run) }
//
//	func TestCrash(t *testing.T) { backendtest.Crash(t, backendtest.On(overlay.Driver(), "ext4")) }
//
// [Crash] kills a process at every failpoint of every operation, opens the store again and looks
// for damage. [PowerCut] copies the disk below a working store, as a power cut would leave it, and
// does the same with the copy. [RunDeep] uses a very deep layer with few descriptors and little memory.
// [Sinks] tests a sink without a store; [Memory] is a backend that passes it.
//
// # Layers are values
//
// What a layer should hold is written as a [Step], applied both to the mounted layer and to a plain
// directory, and the two trees are then compared completely ([ReadTree], [Diff]): types, modes,
// owners, sizes, content, extended attributes, nanosecond times and groups of hard links.
//
// # Every row cleans up
//
// After each row the suite runs the store's own check, removes all layers and closes the store. A
// finding, a mount, a file left in the backend's directory or an open descriptor fails the row;
// [LoopFS] fails its test if its mount or loop device cannot be given back.
//
// Real file systems need root. Without it [Run], [Crash] and [PowerCut] skip and say so.
package backendtest
