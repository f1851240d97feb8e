package daemon

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"

	"strata/backend/mounttable"
	"strata/backend/regular"
	"strata/backend/store"
	"strata/plugin"
	"strata/plugin/config"
	"strata/plugin/graphdriver"
	"strata/plugin/keeper"
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
// Where the host does not see what is mounted below /run, the propagated mount is all there is. When Docker has taken that
// away the process ends (propagation.go), and Docker starts another one with a new propagated mount.
type Placement struct {
	Root     string // the store's directory, here
	HostRoot string // the same on the host
	MountDir string // where layers are mounted, here; "" is the store's default

	data     string            // the data directory, here; "" outside a container
	hostData string            // the same on the host
	dataRoot string            // of Docker, here; "" if it cannot be seen
	runDir   string            // the host's /run, here; "" outside a container
	run      string            // the same, but "" if layers are not mounted there
	names    map[string]string // directories here, and what they are called on the host
	own      string            // the propagated mount, here, if layers are mounted there
	doubt    string            // why HostRoot may not be the store's path on the host; "" for no doubt
}

// facts are what config.json says about the plugin's container.
type facts struct{ propagated, data, run string }

// managed says whether this is a managed plugin.
func (f facts) managed() bool { return f.propagated != "" }

// restart says what is started again to start this process again.
func (f facts) restart() string {
	if f.managed() {
		return config.RestartDocker
	}
	return config.RestartService
}

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

// locate finds the store whose path on the host is root. chosen says that somebody has set that path.
func locate(root string, chosen bool, f facts) (Placement, error) {
	if !f.managed() {
		return Placement{Root: root, HostRoot: root}, nil
	}
	mounts, err := mounttable.Read(nil)
	if err != nil {
		return Placement{}, fmt.Errorf("read mount table: %w", err)
	}
	p, err := locateAmong(root, chosen, f, mounts)
	if err != nil {
		return Placement{}, err
	}
	return p, p.settle(root, f, store.Seen)
}

// locateAmong finds the store in a container with these mounts.
func locateAmong(root string, chosen bool, f facts, mounts []*mountinfo.Info) (Placement, error) {
	p := Placement{
		Root: filepath.Join(f.data, filepath.Base(root)), HostRoot: root,
		data: f.data, hostData: filepath.Dir(root), runDir: f.run, dataRoot: dataRoot(f, mounts),
	}
	p.names = map[string]string{f.data: p.hostData, f.run: hostRun}
	if m := lastAt(f.propagated, mounts); m != nil {
		if i := strings.LastIndex(m.Root, "/plugins/"); i >= 0 {
			p.names[f.propagated] = "DOCKER-ROOT" + m.Root[i:]
		}
	}
	data := lastAt(f.data, mounts)
	if data == nil {
		return p, fmt.Errorf("no host directory is mounted on %s, so the store has no place: %w", f.data, errdefs.ErrFailedPrecondition)
	}
	source, err := sourceOf(f, mounts)
	if err != nil {
		return p, err
	}
	const advice = "set both, docker plugin set NAME data.source=DIR STRATA_ROOT=DIR/strata"
	switch {
	case source == p.hostData, source == "" && plausible(data, p.hostData):
		return p, nil
	case source != "":
		return p, fmt.Errorf("option root is %s, which does not lie directly in %s, the plugin's data.source: %s: %w", root, source, advice, errdefs.ErrInvalidArgument)
	}
	p.doubt = fmt.Sprintf("option root is %s, but the plugin's mount \"data\" is %s of its file system: unless the host has that bound to %s, %s",
		root, data.Root, p.hostData, advice)
	if chosen {
		return p, fmt.Errorf("%s: %w", p.doubt, errdefs.ErrInvalidArgument)
	}
	return p, nil
}

// pluginsDir is where a plugin's sockets lie, here.
const pluginsDir = "/run/docker/plugins"

// sourceOf returns the host directory that is bound to the data directory, as Docker has told containerd, which keeps that in the host's /run
// as long as the container runs. The mount table has only that directory's path in its file system. "" if it is not there: Docker and
// containerd can be told to use another directory.
func sourceOf(f facts, mounts []*mountinfo.Info) (string, error) {
	sockets := lastAt(pluginsDir, mounts)
	if sockets == nil {
		return "", nil
	}
	// Of a containerd that is a service, and of dockerd's own.
	for _, state := range []string{"containerd", "docker/containerd/daemon"} {
		text, err := regular.Read(
			filepath.Join(f.run, state, "io.containerd.runtime.v2.task/plugins.moby", filepath.Base(sockets.Root), "config.json"), plugin.MaxRecord)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("find data.source: %w", err)
		}
		var bundle struct {
			Mounts []struct{ Destination, Source string }
		}
		if err := json.Unmarshal(text, &bundle); err != nil {
			return "", fmt.Errorf("find data.source: %w: %w", err, errdefs.ErrDataLoss)
		}
		for _, m := range bundle.Mounts {
			if m.Destination == f.data {
				return filepath.Clean(m.Source), nil
			}
		}
	}
	return "", nil
}

// settle chooses where layers are mounted. seen is store.Seen.
func (p *Placement) settle(root string, f facts, seen func(dir string) (bool, error)) error {
	below, err := seen(f.run)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("find out whether the host sees mounts in its %s: %w", hostRun, err)
	case below:
		p.run = f.run
		// Machines with several stores have one /run.
		p.MountDir = filepath.Join(f.run, fmt.Sprintf("strata-%x", sha256.Sum256([]byte(root)))[:len("strata-")+8])
	default:
		p.own = f.propagated
		p.MountDir = filepath.Join(f.propagated, "mnt")
	}
	return nil
}

// hostRun is the source of the mount called run in config.json.
const hostRun = "/run"

// ofStore is what the store's keeper wants to know.
func (p Placement) ofStore() keeper.Place {
	return keeper.Place{
		Root: p.Root, HostRoot: p.HostRoot, MountDir: p.MountDir, DockerRoot: p.dataRoot, Doubt: p.doubt,
		Here: p.here, HostText: p.hostText, Unseen: p.unseen,
	}
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
	if rest, ok := plugin.Below(p.data, dir); ok {
		return filepath.Join(p.hostData, rest)
	}
	if rest, ok := plugin.Below(p.run, dir); ok {
		return filepath.Join(hostRun, rest)
	}
	return dir
}

// hostText translates the paths in a text for people into the host's. What Docker calls the propagated mount
// is known from its data root on.
func (p Placement) hostText(text string) string { return plugin.Renamer(p.names)(text) }

// unseen returns why a containerd on the host would not see what is mounted in dir, which lies in MountDir, or would not be told where.
func (p Placement) unseen(dir string) error {
	if p.data != "" && p.run == "" {
		return fmt.Errorf("the plugin mounts what layers consist of in its own directory, for the host's %s is no shared mount of its own: mount a tmpfs there, "+
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
	rest, ok := plugin.Below(hostRun, path)
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
	rest, ok := plugin.Below(p.hostData, dir)
	if !ok {
		return "", fmt.Errorf("directory %s does not lie in %s, which is all that the plugin sees of the host: %w", dir, p.hostData, errdefs.ErrInvalidArgument)
	}
	return filepath.Join(p.data, rest), nil
}
