package daemon

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"

	"strata/backend/store"
	"strata/plugin/config"
	"strata/plugin/graphdriver"
)

// Placement tells where a store lies, from inside and from the host.
//
// Outside a container both are the same. In a managed plugin the host directory that holds the
// store is bind-mounted on the data directory (config.json, mount "data"), and the setting root is
// the store's path on the host.
//
// A managed plugin mounts layers below the host's /run, which is a mount of its own on every ordinary
// machine, and shared. Other places do not do:
//
//   - Of the mount that holds Docker's data root, runc cuts the container's view off (libcontainer/
//     rootfs_linux.go, rootfsParentMountPrivate) and shows it as shared all the same. On a machine with
//     one file system the data directory is on that mount.
//   - Docker takes the propagated mount away from under a running plugin: a dockerd that starts after
//     it was killed unmounts it while it starts the plugin anew, and one with --live-restore does so
//     when it stops (moby plugin/manager_linux.go). Remapped users cannot enter it.
//
// Where /run is no mount of its own, the propagated mount is all there is.
type Placement struct {
	Root     string // the store's directory, here
	HostRoot string // the same on the host
	MountDir string // where layers are mounted, here; "" is the store's default

	data     string // the data directory, here; "" outside a container
	hostData string // the same on the host
	runDir   string // the host's /run, here; "" outside a container
	run      string // the same, but "" if layers are not mounted there
	doubt    string // why HostRoot may not be the store's path on the host; "" for no doubt
}

// facts are what config.json says about the plugin's container.
type facts struct{ propagated, data, run string }

func factsOf(environ []string) facts {
	var f facts
	for _, e := range environ {
		switch name, value, _ := strings.Cut(e, "="); name {
		case config.EnvPropagatedMount:
			f.propagated = value
		case config.EnvData:
			f.data = value
		case config.EnvRun:
			f.run = value
		}
	}
	return f
}

// locate finds the store whose path on the host is root.
func locate(root string, f facts) (Placement, error) {
	if f.propagated == "" {
		return Placement{Root: root, HostRoot: root}, nil
	}
	mounts, err := ownMounts()
	if err != nil {
		return Placement{}, fmt.Errorf("read mount table: %w", err)
	}
	return locateAmong(root, f, mounts)
}

// locateAmong is locate in a container with these mounts.
func locateAmong(root string, f facts, mounts []*mountinfo.Info) (Placement, error) {
	p := Placement{
		Root: filepath.Join(f.data, filepath.Base(root)), HostRoot: root, MountDir: filepath.Join(f.propagated, "mnt"),
		data: f.data, hostData: filepath.Dir(root), runDir: f.run,
	}
	data := lastAt(f.data, mounts)
	if data == nil {
		return p, fmt.Errorf("no host directory is mounted on %s, so the store has no place: %w", f.data, errdefs.ErrFailedPrecondition)
	}
	if !plausible(data, p.hostData) {
		p.doubt = fmt.Sprintf("option root is %s, but the plugin's mount \"data\" is %s of its file system: unless the host has that bound to %s, "+
			"set both, docker plugin set NAME data.source=DIR STRATA_ROOT=DIR/strata", root, data.Root, p.hostData)
	}
	if apart(lastAt(f.run, mounts), lastAt("/", mounts)) {
		p.run = f.run
		// Machines with several stores have one /run.
		p.MountDir = filepath.Join(f.run, fmt.Sprintf("strata-%x", sha256.Sum256([]byte(root)))[:len("strata-")+8])
	}
	return p, nil
}

// hostRun is the source of the mount called run in config.json.
const hostRun = "/run"

// apart says whether the host's /run is another mount than the one that holds the plugin's root.
func apart(run, root *mountinfo.Info) bool {
	if run == nil || root == nil {
		return false
	}
	return run.Major != root.Major || run.Minor != root.Minor || run.Root != hostRun
}

// dockerPath translates the path of a mounted layer here into what Docker must be told.
func (p Placement) dockerPath(propagated string) func(dir string) string {
	return graphdriver.Climb(propagated, p.run, hostRun)
}

// lastAt returns the mount on dir that covers the others, or nil.
func lastAt(dir string, mounts []*mountinfo.Info) *mountinfo.Info {
	var last *mountinfo.Info
	for _, m := range mounts {
		if m.Mountpoint == dir {
			last = m
		}
	}
	return last
}

// plausible says whether the mounted directory is likely to be hostDir. What is mounted is known by its path
// in its file system; hostDir ends in that path, whatever it is that the host has mounted where. On
// btrfs the file system's path begins with the subvolume that is mounted.
func plausible(m *mountinfo.Info, hostDir string) bool {
	root := m.Root
	for option := range strings.SplitSeq(m.VFSOptions, ",") {
		if volume, ok := strings.CutPrefix(option, "subvol="); ok && m.FSType == "btrfs" && volume != "/" {
			root = "/" + strings.TrimPrefix(strings.TrimPrefix(root, volume), "/")
		}
	}
	return root == "/" || root == hostDir || strings.HasSuffix(hostDir, root)
}

// hostPath translates a path here into the host's.
func (p Placement) hostPath(dir string) string {
	if rest, ok := below(dir, p.data); ok {
		return filepath.Join(p.hostData, rest)
	}
	if rest, ok := below(dir, p.run); ok {
		return filepath.Join(hostRun, rest)
	}
	return dir
}

// unseen returns why a containerd on the host would not see what is mounted in dir, which lies in MountDir, or would not be told where.
func (p Placement) unseen(dir string) error {
	if p.data != "" && p.run == "" {
		return fmt.Errorf("the plugin mounts what layers consist of in its own directory, for the host's %s is no mount of its own: mount a tmpfs there, "+
			"or start strata serve without a plugin: %w", hostRun, errdefs.ErrFailedPrecondition)
	}
	if seen, err := store.Seen(dir); err != nil || seen {
		return err
	}
	return fmt.Errorf("what layers consist of is mounted in %s, where containerd would not see it: make the mount that this is on a shared one "+
		"(mount --make-shared), or start Strata in the host's mount namespace: %w", dir, errdefs.ErrFailedPrecondition)
}

// socket translates the path of a socket on the host into ours: in a managed plugin it lies in the host's /run.
// ErrInvalidArgument for others.
func (p Placement) socket(path string) (string, error) {
	if p.data == "" || path == "" {
		return path, nil
	}
	rest, ok := below(path, hostRun)
	if !ok {
		return "", fmt.Errorf("socket %s does not lie in %s, which is where a plugin can have one on the host: %w", path, hostRun, errdefs.ErrInvalidArgument)
	}
	return filepath.Join(p.runDir, rest), nil
}

// here translates a path on the host into ours. ErrInvalidArgument if it cannot be reached.
func (p Placement) here(dir string) (string, error) {
	if p.data == "" {
		return dir, nil
	}
	rest, ok := below(dir, p.hostData)
	if !ok {
		return "", fmt.Errorf("directory %s does not lie in %s, which is all that the plugin sees of the host: %w", dir, p.hostData, errdefs.ErrInvalidArgument)
	}
	return filepath.Join(p.data, rest), nil
}

// below returns the rest of a path in dir. No path is below "".
func below(path, dir string) (string, bool) {
	if dir == "" {
		return "", false
	}
	if path == dir {
		return "", true
	}
	return strings.CutPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
