// Package graphtest runs the conformance suites that others have written for storage drivers on Strata, for every
// backend on every file system that it is meant for: Docker's own, moby's daemon/graphdriver/graphtest, and that of
// containers/storage, drivers/graphtest, on which podman's drivers are tested. Each call goes through dockerd's own
// plugin proxy to Strata's handler on a unix socket, but for what only containers/storage asks for: that
// goes to the store.
//
// It is a module of its own because the packages of the two need versions of containerd's and the
// OCI's modules that nothing else here should have to agree with.
package graphtest
