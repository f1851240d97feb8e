package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// object is one of Kubernetes, or a part.
type object = map[string]any

// nodeName is the node's in the API.
const nodeName = "node"

// debianRunc is where a node has the runc that others were laid over.
const debianRunc = "/run/debian-runc"

// node is a host with a kubelet and the API server that tells it what to run, which keeps that in an etcd. They listen on the loopback
// interface, and whoever asks them needs the token.
type node struct {
	*containerdHost
	programs string // the directory of theirs
	token    string
	api      string // HOST:PORT
	own      string // HOST:PORT, of the kubelet
	client   *http.Client
	services []*engine.Service // all but the kubelet
	kubelet  *engine.Service   // nil unless it runs
}

func newNode(t *testing.T, h *containerdHost, programs string) *node {
	t.Helper()
	n := &node{containerdHost: h, programs: programs, token: rand.Text(), api: freeAddress(t), own: freeAddress(t)}
	n.client = &http.Client{
		Timeout:   commandTime,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, // certificates that they made themselves
	}
	t.Cleanup(func() { n.close(t) })
	runc, err := os.ReadFile("/usr/sbin/runc")
	assert.NilError(t, err)
	n.write(t, debianRunc, runc)
	n.run(t, "chmod", "+x", debianRunc)
	n.isolate(t)
	n.startAPI(t)
	n.startKubelet(t, anyDisk)
	return n
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	assert.NilError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// kernel is what a kubelet wants of /proc/sys, and would else set, for the whole of the real host.
const kernel = "vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 " +
	"kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000"

// isolate gives the machine what a kubelet would else share with the real host.
func (n *node) isolate(t *testing.T) {
	t.Helper()
	n.run(t, "mount", "-t", "tmpfs", "log", "/var/log")
	n.run(t, "sh", "-euc", `for s in $1; do
	file=/run/kernel/${s%=*}
	mkdir -p "${file%/*}"
	echo "${s#*=}" >"$file"
	mount --bind "$file" "/proc/sys/${s%=*}"
done`, "isolate", kernel)
	hierarchies := []string{"/sys/fs/cgroup"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err != nil { // version 1
		hierarchies, err = filepath.Glob("/sys/fs/cgroup/*")
		assert.NilError(t, err)
	}
	for _, h := range hierarchies {
		assert.NilError(t, os.MkdirAll(filepath.Join(h, n.Cgroup()), 0o755))
	}
}

func (n *node) close(t *testing.T) {
	t.Helper()
	n.stopKubelet(t)
	for i := len(n.services) - 1; i >= 0; i-- {
		if t.Failed() {
			t.Logf("log:\n%s", n.services[i].Log())
		}
		assert.Check(t, n.services[i].Kill())
	}
	const script = `umount --lazy /var/log; for s in $1; do umount "/proc/sys/${s%=*}"; done`
	out, err := n.Command(context.WithoutCancel(t.Context()), "sh", "-c", script, "close", kernel).CombinedOutput()
	assert.Check(t, err, "%s", out)
}

// write writes a file of the machine, for root alone.
func (n *node) write(t *testing.T, path string, content []byte) {
	t.Helper()
	assert.NilError(t, os.MkdirAll(filepath.Dir(n.Path(path)), 0o755))
	assert.NilError(t, os.WriteFile(n.Path(path), content, 0o600))
}

func (n *node) startAPI(t *testing.T) {
	t.Helper()
	const etcd = "/run/etcd.sock"
	n.serve(t, "server", etcd, "--data-dir", "/var/lib/etcd", "--listen-client-urls", "unix://"+etcd,
		"--listen-peer-urls", "unix:///run/etcd-peer.sock", "--advertise-client-urls", "http://localhost:2379") // which nobody is told
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	assert.NilError(t, err)
	const keyFile, tokenFile = "/etc/kubernetes/key.pem", "/etc/kubernetes/tokens"
	n.write(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	n.write(t, tokenFile, []byte(n.token+",admin,admin,system:masters\n"))
	host, port, err := net.SplitHostPort(n.api)
	assert.NilError(t, err)
	n.serve(t, "kube-apiserver", n.api, "--etcd-servers", "unix://"+etcd, "--bind-address", host, "--secure-port", port,
		"--cert-dir", "/var/lib/kube-apiserver", "--token-auth-file", tokenFile, "--anonymous-auth=false", "--authorization-mode", "AlwaysAllow",
		"--service-account-issuer", "https://"+n.api, "--service-account-key-file", keyFile, "--service-account-signing-key-file", keyFile,
		"--service-cluster-ip-range", "10.0.0.0/24", "--endpoint-reconciler-type", "none",
		"--disable-admission-plugins", "ServiceAccount") // there is no controller to make accounts
	n.await(t, "the API server", func() bool {
		return n.get(t, "/readyz", nil) == http.StatusOK && n.get(t, "/api/v1/namespaces/default", nil) == http.StatusOK
	})
}

func (n *node) serve(t *testing.T, program, socket string, args ...string) {
	t.Helper()
	s, err := n.Serve(t.Context(), program, socket, append([]string{filepath.Join(n.programs, program)}, args...)...)
	assert.NilError(t, err)
	n.services = append(n.services, s)
}

// startKubelet starts the kubelet, which removes unused images if less than that is available of the disk, and waits for its node.
func (n *node) startKubelet(t *testing.T, available string) {
	t.Helper()
	host, port, err := net.SplitHostPort(n.own)
	assert.NilError(t, err)
	const configFile, clusterFile = "/etc/kubernetes/kubelet.json", "/etc/kubernetes/cluster.json"
	config, err := json.Marshal(object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"address": host, "port": json.Number(port), "healthzPort": 0,
		"containerRuntimeEndpoint": "unix://" + containerdSocket,
		"cgroupRoot":               n.Cgroup(),
		"evictionHard":             object{"nodefs.available": available}, "imageMinimumGCAge": "1s",
		"podLogsDir": "/var/log/pods", "volumePluginDir": "/var/lib/kubelet/plugins",
		"failSwapOn": false, "makeIPTablesUtilChains": false, "protectKernelDefaults": true, "oomScoreAdj": 0, // of the real host nothing is set
	})
	assert.NilError(t, err)
	n.write(t, configFile, config)
	cluster, err := json.Marshal(object{
		"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": []object{{"name": "c", "cluster": object{"server": "https://" + n.api, "insecure-skip-tls-verify": true}}},
		"users":    []object{{"name": "c", "user": object{"token": n.token}}},
		"contexts": []object{{"name": "c", "context": object{"cluster": "c", "user": "c"}}},
	})
	assert.NilError(t, err)
	n.write(t, clusterFile, cluster)
	s, err := n.Serve(t.Context(), "kubelet", n.own, filepath.Join(n.programs, "kubelet"),
		"--config", configFile, "--kubeconfig", clusterFile, "--hostname-override", nodeName)
	assert.NilError(t, err)
	n.kubelet = s
	n.await(t, "the node", func() bool { return n.get(t, "/api/v1/nodes/"+nodeName, nil) == http.StatusOK })
}

func (n *node) stopKubelet(t *testing.T) {
	t.Helper()
	if n.kubelet == nil {
		return
	}
	if t.Failed() {
		t.Logf("log:\n%s", n.kubelet.Log())
	}
	assert.Check(t, n.kubelet.Stop())
	n.kubelet = nil
}

// await waits until the condition holds.
func (n *node) await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	begun := time.Now()
	for !holds() {
		assert.Assert(t, time.Since(begun) < collectTime, "waited for %s for %v", what, collectTime)
		time.Sleep(200 * time.Millisecond)
	}
	t.Logf("waited for %s for %v", what, time.Since(begun).Round(time.Millisecond))
}

// exec runs a script in the pod's container, by way of the kubelet, which splits a command where there are blanks.
func (n *node) exec(t *testing.T, pod, script string) string {
	t.Helper()
	command := "sh -c " + strings.ReplaceAll(script, " ", "\t")
	status, out := n.do(t, http.MethodPost, n.own, "/run/default/"+pod+"/c?cmd="+url.QueryEscape(command), nil)
	assert.Equal(t, status, http.StatusOK, "%s", out)
	return string(out)
}

func (n *node) create(t *testing.T, path string, o object) {
	t.Helper()
	body, err := json.Marshal(o)
	assert.NilError(t, err)
	status, out := n.do(t, http.MethodPost, n.api, path, body)
	assert.Equal(t, status, http.StatusCreated, "%s", out)
}

// used asks the kubelet how much of the disk the pod's container has written, in bytes, -1 if it knows nothing of the pod. It has to
// know of what disk.
func (n *node) used(t *testing.T, pod string) int64 {
	t.Helper()
	status, out := n.do(t, http.MethodGet, n.own, "/stats/summary", nil)
	assert.Equal(t, status, http.StatusOK, "%s", out)
	var summary struct {
		Pods []struct {
			PodRef     struct{ Name string }
			Containers []struct {
				Rootfs struct{ CapacityBytes, UsedBytes int64 }
			}
		}
	}
	assert.NilError(t, json.Unmarshal(out, &summary))
	for _, p := range summary.Pods {
		if p.PodRef.Name == pod && len(p.Containers) == 1 {
			assert.Assert(t, p.Containers[0].Rootfs.CapacityBytes > 0, "%s", out)
			return p.Containers[0].Rootfs.UsedBytes
		}
	}
	return -1
}

// get asks the API server, and returns the status.
func (n *node) get(t *testing.T, path string, o any) int {
	t.Helper()
	status, out := n.do(t, http.MethodGet, n.api, path, nil)
	if status == http.StatusOK && o != nil {
		assert.NilError(t, json.Unmarshal(out, o))
	}
	return status
}

func (n *node) remove(t *testing.T, path string) {
	t.Helper()
	status, out := n.do(t, http.MethodDelete, n.api, path, nil)
	assert.Equal(t, status, http.StatusOK, "%s", out)
}

func (n *node) do(t *testing.T, method, address, path string, body []byte) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+address+path, bytes.NewReader(body))
	assert.NilError(t, err)
	req.Header.Set("Authorization", "Bearer "+n.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := n.client.Do(req)
	assert.NilError(t, err)
	out, err := io.ReadAll(resp.Body)
	assert.NilError(t, err)
	assert.NilError(t, resp.Body.Close())
	return resp.StatusCode, out
}
