// Package graphtest runs Docker's own conformance suite for storage drivers, moby's
// daemon/graphdriver/graphtest, on Strata: each call goes through dockerd's own plugin proxy to
// Strata's handler on a unix socket, for every backend on every file system that it is meant for.
//
// It is a module of its own because the daemon's packages need versions of containerd's and the
// OCI's modules that nothing else here should have to agree with.
package graphtest
