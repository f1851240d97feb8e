package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// kubernetesConfig is the part of containerd's configuration that is about Kubernetes, as docs/kubernetes.md has it: pods run on
// overlayfs, those of the runtime class strata on Strata.
const kubernetesConfig = `[plugins."io.containerd.cri.v1.images"]
  snapshotter = "%s"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "docker.io/library/pause:latest"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.strata]
  runtime_type = "io.containerd.runc.v2"
  snapshotter = "strata"
`

// TestKubernetes does what a kubelet does, by crictl: with Strata for all pods, and for those of a runtime class.
func TestKubernetes(t *testing.T) {
	usr, clients := builtClients(t)
	for _, tc := range []struct{ name, snapshotter, handler string }{
		{"all", "strata", ""},
		{"runtime-class", "overlayfs", "strata"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newContainerdHost(t, containerdSetup{
				usr: usr, backend: "overlay", fs: "ext4", new: true, differ: true, config: fmt.Sprintf(kubernetesConfig, tc.snapshotter),
			})
			crictl := func(args ...string) string {
				t.Helper()
				return h.run(t, append([]string{filepath.Join(clients, "crictl"), "--runtime-endpoint", "unix://" + containerdSocket}, args...)...)
			}
			pause := filepath.Join(t.TempDir(), "pause.tar")
			assert.NilError(t, engine.WriteImageOf(pause, "pause:latest", []string{"sleep", "1000000"}, fixtures(t).busybox))
			for _, file := range []string{pause, fixtures(t).archive("many")} {
				h.ctr(t, "--namespace", "k8s.io", "images", "import", "--local", "--snapshotter", "strata", file)
			}
			assert.Assert(t, strings.Contains(crictl("images"), "docker.io/library/many"))
			dir := t.TempDir()
			write := func(name, text string) string {
				path := filepath.Join(dir, name)
				assert.NilError(t, os.WriteFile(path, []byte(text), 0o600))
				return path
			}
			// Network 2 is the node's own: no CNI is needed.
			sandbox := write("pod.json", fmt.Sprintf(`{"metadata": {"name": "pod", "namespace": "default", "uid": "u1", "attempt": 1},
				"log_directory": "/run", "linux": {"cgroup_parent": %q, "security_context": {"namespace_options": {"network": 2}}}}`, h.Cgroup()))
			container := write("container.json", `{"metadata": {"name": "c"}, "image": {"image": "docker.io/library/many:latest"},
				"command": ["sh", "-c", "echo new >/new; sleep 1000000"], "log_path": "c.log", "linux": {}}`)
			pod := crictl("runp", "--runtime", tc.handler, sandbox)
			id := crictl("create", pod, container, sandbox)
			crictl("start", id)
			assert.Equal(t, crictl("exec", id, "sh", "-c", "find /many -type f | wc -l"), "5000")
			assert.Assert(t, strings.Contains(h.run(t, append(h.cli(), "ls")...), id[:12]), "the container is not on Strata")
			crictl("rm", "--force", id)
			crictl("rmp", "--force", pod)
			crictl("rmi", "--all")
			h.clear(t, "k8s.io")
		})
	}
}

// TestNerdctl does what people do with a docker for containerd, as docs/nerdctl.md has it.
func TestNerdctl(t *testing.T) {
	usr, clients := builtClients(t)
	h := newContainerdHost(t, containerdSetup{usr: usr, backend: "overlay", fs: "ext4", new: true, differ: true})
	nerdctl := func(args ...string) string {
		t.Helper()
		return h.run(t, append([]string{filepath.Join(clients, "nerdctl"), "--snapshotter", "strata", "--cgroup-manager", "cgroupfs"}, args...)...)
	}
	nerdctl("load", "--input", fixtures(t).archive("many"))
	assert.Equal(t, nerdctl("run", "--rm", "--net", "none", "many", "sh", "-c", "find /many -type f | wc -l"), "5000")
	nerdctl("run", "--name", "c", "--net", "none", "many", "sh", "-c", "echo new >/new")
	assert.Assert(t, strings.Contains(nerdctl("diff", "c"), "A /new"))
	nerdctl("commit", "c", "committed")
	assert.Equal(t, nerdctl("run", "--rm", "--net", "none", "committed", "cat", "/new"), "new")
	saved := filepath.Join(t.TempDir(), "saved")
	nerdctl("save", "--output", saved, "committed")
	nerdctl("rm", "c")
	nerdctl("rmi", "committed", "many")
	nerdctl("load", "--input", saved)
	assert.Equal(t, nerdctl("run", "--rm", "--net", "none", "committed", "cat", "/new"), "new")
	nerdctl("rmi", "committed")
	h.clear(t, "default")
}

// builtClients returns what is to be laid over /usr, and where the clients are.
func builtClients(t *testing.T) (usr, clients string) {
	t.Helper()
	f := fixtures(t)
	needBuilt(t)
	usr, err := engine.Docker29().Usr(t.Context(), f.cache)
	assert.NilError(t, err)
	clients, err = engine.Clients().Usr(t.Context(), f.cache)
	assert.NilError(t, err)
	return usr, filepath.Join(clients, "sbin")
}
