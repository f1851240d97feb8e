package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"gotest.tools/v3/assert"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"strata/test/e2e/engine"
)

// kubernetesConfig is the part of containerd's configuration that is about Kubernetes, as docs/kubernetes.md has it: pods run on
// overlayfs, those of the runtime class strata on Strata.
const kubernetesConfig = `[plugins."io.containerd.cri.v1.images"]
  snapshotter = "%s"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "docker.io/library/pause:latest"
  [plugins."io.containerd.cri.v1.images".runtime_platforms.strata]
    snapshotter = "strata"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.strata]
  runtime_type = "io.containerd.runc.v2"
  snapshotter = "strata"
[proxy_plugins.strata.exports]
  root = "/var/lib/strata"
`

// restricted is for machines on which root may not protect processes from the kernel's OOM killer.
const restricted = `[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
`

// TestKubernetes makes the calls that a kubelet makes: with Strata for all pods, and for those of a runtime class.
func TestKubernetes(t *testing.T) {
	usr := builtUsr(t, engine.Docker29())
	for _, tc := range []struct{ name, snapshotter, handler string }{
		{"all", "strata", ""},
		{"runtime-class", "overlayfs", "strata"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newContainerdHost(t, containerdSetup{
				usr: usr, backend: "overlay", fs: "ext4", new: true, differ: true,
				config: fmt.Sprintf(kubernetesConfig, tc.snapshotter) + restricted,
			})
			pause := filepath.Join(t.TempDir(), "pause.tar")
			assert.NilError(t, engine.WriteImageOf(pause, "pause:latest", []string{"sleep", "1000000"}, fixtures(t).busybox))
			for _, file := range []string{pause, fixtures(t).archive("many")} {
				h.ctr(t, "--namespace", "k8s.io", "images", "import", "--local", "--snapshotter", "strata", file)
			}
			testPod(t, h, tc.handler)
			h.clear(t, "k8s.io")
		})
	}
}

func testPod(t *testing.T, h *containerdHost, handler string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+h.Path(containerdSocket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	assert.NilError(t, err)
	defer conn.Close()
	kubelet := cri.NewRuntimeServiceClient(conn)
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: "pod", Namespace: "default", Uid: "u1", Attempt: 1},
		LogDirectory: "/run",
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: h.Cgroup(),
			SecurityContext: &cri.LinuxSandboxSecurityContext{ // no CNI is needed on the node's network
				NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE},
			},
		},
	}
	pod, err := kubelet.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	assert.NilError(t, err)
	c, err := kubelet.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: pod.GetPodSandboxId(), SandboxConfig: config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "c"}, Image: &cri.ImageSpec{Image: "docker.io/library/many:latest"},
			Command: []string{"sleep", "1000000"}, LogPath: "c.log", Linux: &cri.LinuxContainerConfig{},
		},
	})
	assert.NilError(t, err)
	id := c.GetContainerId()
	_, err = kubelet.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
	assert.NilError(t, err)
	out, err := kubelet.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo new >/new; find /many /new -type f | wc -l"}})
	assert.NilError(t, err)
	assert.Equal(t, string(out.GetStdout()), "5001\n", "%s", out.GetStderr())
	assert.Assert(t, strings.Contains(strings.Join(h.layers(t), " "), id), "the container is not on Strata")
	_, err = kubelet.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod.GetPodSandboxId()})
	assert.NilError(t, err)
	_, err = kubelet.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.GetPodSandboxId()})
	assert.NilError(t, err)
}

// nerdctlConfig is nerdctl's configuration file, as docs/nerdctl.md has it.
const nerdctlConfig = "snapshotter = \"strata\"\n"

// TestNerdctl does what people do with a docker for containerd, as docs/nerdctl.md has it: with Strata named by a flag, and in
// nerdctl's configuration file.
func TestNerdctl(t *testing.T) {
	program := filepath.Join(builtUsr(t, engine.Nerdctl()), "sbin", "nerdctl")
	h := newContainerdHost(t, containerdSetup{usr: builtUsr(t, engine.Docker29()), backend: "overlay", fs: "ext4", new: true, differ: true})
	argv := []string{program, "--cgroup-manager", "cgroupfs"}
	t.Run("flag", func(t *testing.T) { testNerdctl(t, h, append(argv, "--snapshotter", "strata")...) })
	assert.NilError(t, os.MkdirAll(h.Path("/etc/nerdctl"), 0o755))
	assert.NilError(t, os.WriteFile(h.Path("/etc/nerdctl/nerdctl.toml"), []byte(nerdctlConfig), 0o600))
	t.Run("file", func(t *testing.T) { testNerdctl(t, h, argv...) })
}

func testNerdctl(t *testing.T, h *containerdHost, argv ...string) {
	t.Helper()
	nerdctl := func(args ...string) string {
		t.Helper()
		return h.run(t, slices.Concat(argv, args)...)
	}
	run := func(args ...string) string {
		t.Helper()
		return nerdctl(append([]string{"run", "--security-opt", "seccomp=unconfined", "--net", "none"}, args...)...)
	}
	nerdctl("load", "--input", fixtures(t).archive("many"))
	assert.Equal(t, run("--rm", "many", "sh", "-c", "find /many -type f | wc -l"), "5000")
	run("--name", "one", "many", "sh", "-c", "echo new >/new")
	id := nerdctl("container", "inspect", "--format", "{{.ID}}", "one")
	assert.Assert(t, slices.ContainsFunc(h.layers(t), func(l string) bool { return strings.Contains(l, id) }), "%s is not on Strata: %v", id, h.layers(t))
	assert.Assert(t, strings.Contains(nerdctl("diff", "one"), "A /new"))
	nerdctl("commit", "one", "committed")
	assert.Equal(t, run("--rm", "committed", "cat", "/new"), "new")
	saved := filepath.Join(t.TempDir(), "saved")
	nerdctl("save", "--output", saved, "committed")
	nerdctl("rm", "one")
	nerdctl("rmi", "committed", "many")
	nerdctl("load", "--input", saved)
	assert.Equal(t, run("--rm", "committed", "cat", "/new"), "new")
	nerdctl("rmi", "committed")
	h.clear(t, "default")
}

// builtUsr returns where programs are that no Debian suite has, to be laid over /usr.
func builtUsr(t *testing.T, p engine.Programs) string {
	t.Helper()
	f := fixtures(t)
	if os.Getenv("STRATA_E2E_BUILT") == "" {
		t.Skip("needs programs that take a quarter of an hour to build, once: set STRATA_E2E_BUILT=1, as scripts/test snapshotter does")
	}
	usr, err := p.Usr(t.Context(), f.cache)
	assert.NilError(t, err)
	return usr
}
