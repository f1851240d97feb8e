// Package engine boots throw-away Docker hosts for end-to-end tests and benchmarks.
//
// A [Machine] is a private mount and PID namespace in which /etc, /run and /var/lib belong to the
// machine alone, so a dockerd, its plugins and a store run there at their default paths, as on a
// user's host, while the real host sees nothing of them. Whatever runs in it dies with the process
// that booted it, however that process ends: the namespace's init waits on a pipe from it. Like a
// host under systemd its root mount is shared and it runs a containerd of its own, and like a host it
// outlives a crash of the daemon.
//
// With Config.Systemd a machine boots systemd, as process 1 of its namespace and at the root of its own tree of cgroups, and
// services run there with the units that users have. Of the real host it sets nothing.
//
// A [Release] is a Docker engine as packaged by one Debian suite. Where the host's own Docker is
// another one, the suite's packages are unpacked beside it, once, and laid over the machine's /usr.
//
// What is expensive to make (packages, a Debian root) is kept in a cache directory: $STRATA_CACHE,
// else $XDG_CACHE_HOME/strata, else ~/.cache/strata.
//
// Needs root, Linux, a Debian host with docker.io and apt, and for Config.Systemd systemd. No function is safe to call twice at
// once for the same Machine unless it says so; different machines are independent.
package engine
