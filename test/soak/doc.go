// Command soak works a Strata hard for as long as it is told to, hurts it meanwhile, and says what was lost.
//
// scripts/soak builds and runs it; `soak -help` lists its flags. The real program serves on a private host (package
// strata/test/e2e/engine) with a file system of its own. Clients speak to it as Docker, containerd and people do: the GraphDriver
// protocol and the control API on one socket, containerd's snapshots on another. Each owns the names
// that begin with its own, uses them again and again, and notes in a ledger what it was promised before it asks for
// more: what a layer shows, the digest of the tar that it was filled with, or that it is gone.
//
// Others, the rivals, share a few names and fight for them: whatever comes of it, a name means one layer, and all can be removed.
//
// Beside the clients keepers check, repair and collect garbage all the time. Nothing that they find, and nothing that they
// remove, may be a layer that is well.
//
// Now and then there is trouble, after which everything stands still and the store is held to the ledger:
//
//	kill     SIGKILL in the middle of the load, at times again while the store opens
//	restart  SIGTERM in the middle of the load
//	full     the disk has no room for a while; at times there is a kill meanwhile
//	rot      a bit of a record, a log or a file of layers made for this is flipped, or one is cut; then all are checked,
//	         repaired and collected
//	calm     nothing for a while, for leaks to show
//
// What was being done when the program was killed may have happened or not; what was acknowledged must be there. A layer that is
// rotten may be refused, but never given back wrong, and takes nothing else with it.
//
// In the end all layers are removed: nothing is left then, neither layers nor mounts, files, processes, memory or
// descriptors. The plan follows from the seed, the moments from the machine.
package main
