package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// confining names Debian's runc, since every pod's sandbox is confined by seccomp, which the one that is built cannot do.
const confining = `[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "` + debianRunc + `"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.strata.options]
  BinaryName = "` + debianRunc + `"
`

// Thresholds of the kubelet: it removes unused images when less is available of the disk.
const (
	anyDisk = "1%"
	noDisk  = "99.9%"
)

// collectTime is how long the kubelet may take to remove what it does not need: it looks for dead containers once a minute.
const collectTime = 4 * time.Minute

// TestKubernetesNode runs a node of a cluster: an API server, and a kubelet that runs what it is told there, with Strata for all
// pods and for those of a runtime class.
func TestKubernetesNode(t *testing.T) {
	usr, programs := builtUsr(t, engine.Docker29()), builtUsr(t, engine.Kubernetes())
	for _, tc := range []struct{ name, snapshotter, class string }{
		{"all", "strata", ""},
		{"runtime-class", "overlayfs", "strata"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newContainerdHost(t, containerdSetup{
				usr: usr, backend: "overlay", fs: "ext4", new: true, differ: true,
				config: fmt.Sprintf(kubernetesConfig, tc.snapshotter) + restricted + confining,
			})
			n := newNode(t, h, filepath.Join(programs, "sbin"))
			pause := filepath.Join(t.TempDir(), "pause.tar")
			assert.NilError(t, engine.WriteImageOf(pause, "pause:latest", []string{"sleep", "1000000"}, fixtures(t).busybox))
			n.load(t, pause)
			withPause := n.layers(t)
			n.load(t, fixtures(t).archive("many"))
			withImages := n.layers(t)
			if tc.class != "" {
				n.createClass(t, tc.class)
				n.testOther(t)
			}
			n.testPods(t, tc.class)
			n.await(t, "the snapshots of pods to go", func() bool { return slices.Equal(n.layers(t), withImages) })
			n.stopKubelet(t)
			n.startKubelet(t, noDisk)
			n.await(t, "the kubelet to remove images", func() bool { return slices.Equal(n.layers(t), withPause) })
			n.stopKubelet(t)
			n.clear(t, "k8s.io")
		})
	}
}

// load loads an image for the kubelet, unpacked on Strata.
func (n *node) load(t *testing.T, archive string) {
	t.Helper()
	n.ctr(t, "--namespace", "k8s.io", "images", "import", "--local", "--snapshotter", "strata", archive)
}

// testPods takes pods through what happens on a node, until they are deleted.
func (n *node) testPods(t *testing.T, class string) {
	t.Helper()
	n.createPod(t, "one", class)
	first := n.running(t, "one", 0)
	assert.Equal(t, n.exec(t, "one", "echo new >/new; find /many /new -type f | wc -l"), "5001\n")
	assert.Assert(t, n.onStrata(t, first), "the container is not on Strata")
	n.testUsage(t, class)

	n.exec(t, "one", "{ sleep 1; kill 1; } </dev/null >/dev/null 2>&1 &") // after this shell, which would not live through it
	second := n.running(t, "one", 1)
	assert.Assert(t, first != second)
	assert.Assert(t, n.onStrata(t, second), "the container that was started again is not on Strata")
	assert.Equal(t, n.exec(t, "one", "find /many /new -type f 2>/dev/null | wc -l"), "5000\n")

	assert.NilError(t, n.strata.Kill())
	assert.Equal(t, n.exec(t, "one", "echo meanwhile >/meanwhile; cat /meanwhile"), "meanwhile\n")
	n.startStrata(t)
	assert.Equal(t, n.exec(t, "one", "cat /meanwhile; find /many -type f | wc -l"), "meanwhile\n5000\n")
	n.createPod(t, "two", class)
	assert.Assert(t, n.onStrata(t, n.running(t, "two", 0)), "the container is not on Strata")
	assert.Equal(t, n.exec(t, "two", "find /many -type f | wc -l"), "5000\n")
	assert.Equal(t, n.running(t, "one", 1), second, "the pod did not live through the end of Strata")
	n.check(t)
	n.deletePods(t, "one", "two")
}

// testUsage: the kubelet knows of the disk that pods are on, and how much they use. containerd measures that for its default
// snapshotter alone.
func (n *node) testUsage(t *testing.T, class string) {
	t.Helper()
	n.exec(t, "one", "seq 100000 >/big")
	want := int64(588895)
	if class != "" {
		want = 0
	}
	n.await(t, "the kubelet to measure", func() bool { return n.used(t, "one") >= want })
}

// testOther runs a pod without a runtime class beside those that have one.
func (n *node) testOther(t *testing.T) {
	t.Helper()
	n.createPod(t, "other", "")
	id := n.running(t, "other", 0)
	assert.Equal(t, n.exec(t, "other", "find /many -type f | wc -l"), "5000\n")
	assert.Assert(t, !n.onStrata(t, id), "the container is on Strata")
	others := n.ctr(t, "--namespace", "k8s.io", "snapshots", "--snapshotter", "overlayfs", "ls")
	assert.Assert(t, strings.Contains(others, id), "%s", others)
	n.deletePods(t, "other")
}

func (n *node) createClass(t *testing.T, name string) {
	t.Helper()
	n.create(t, "/apis/node.k8s.io/v1/runtimeclasses", object{
		"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": object{"name": name}, "handler": "strata",
	})
}

// createPod creates a pod that is bound to the node, so that no scheduler is needed, and to its network, so that no CNI is. SIGTERM
// makes its container fail.
func (n *node) createPod(t *testing.T, name, class string) {
	t.Helper()
	spec := object{
		"nodeName": nodeName, "hostNetwork": true, "automountServiceAccountToken": false,
		"containers": []object{{
			"name": "c", "image": dockerIO + "many:latest", "imagePullPolicy": "Never",
			"command": []string{"sh", "-c", "trap 'exit 1' TERM; sleep 1000000 & wait"},
		}},
	}
	if class != "" {
		spec["runtimeClassName"] = class
	}
	n.create(t, "/api/v1/namespaces/default/pods", object{"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": name}, "spec": spec})
}

// running waits until the pod's container runs, having been started again so many times, and returns its id.
func (n *node) running(t *testing.T, name string, restarts int) string {
	t.Helper()
	var pod struct {
		Status struct {
			ContainerStatuses []struct {
				ContainerID  string
				RestartCount int
				State        struct{ Running *struct{} }
			}
		}
	}
	n.await(t, "pod "+name, func() bool {
		n.get(t, podPath(name), &pod)
		c := pod.Status.ContainerStatuses
		return len(c) == 1 && c[0].RestartCount == restarts && c[0].State.Running != nil
	})
	return strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
}

func (n *node) deletePods(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		assert.Equal(t, n.get(t, podPath(name), nil), http.StatusOK)
		n.remove(t, podPath(name)+"?gracePeriodSeconds=1")
	}
	for _, name := range names {
		n.await(t, "the end of pod "+name, func() bool { return n.get(t, podPath(name), nil) == http.StatusNotFound })
	}
}

func podPath(name string) string { return "/api/v1/namespaces/default/pods/" + name }

func (n *node) onStrata(t *testing.T, id string) bool {
	t.Helper()
	assert.Assert(t, id != "")
	return strings.Contains(strings.Join(n.layers(t), " "), id)
}
