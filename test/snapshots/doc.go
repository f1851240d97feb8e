// Package snapshots runs containerd's own suite for snapshotters (core/snapshots/testsuite in containerd's source)
// against Strata, through the socket that containerd would use, on every backend.
package snapshots
