package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Release is a Docker engine as one Debian suite packages it.
type Release struct {
	Suite   string // Debian's code name
	Version string // "MAJOR.MINOR" of its dockerd
}

// Releases lists the engines that the tests run with, oldest first.
func Releases() []Release {
	return []Release{{"bookworm", "20.10"}, {"trixie", "26.1"}}
}

// Own returns the engine that the host has itself.
func Own(ctx context.Context) (Release, error) {
	out, err := exec.CommandContext(ctx, "dockerd", "--version").Output()
	if err != nil {
		return Release{}, fmt.Errorf("ask dockerd for its version: %w", err)
	}
	for _, r := range Releases() {
		if strings.HasPrefix(string(out), "Docker version "+r.Version+".") {
			return r, nil
		}
	}
	return Release{}, fmt.Errorf("%s is none of %v", bytes.TrimSpace(out), Releases())
}

// Usr returns a directory to be laid over /usr so that dockerd is this release, "" if the host's
// own is. The packages are downloaded once, with the host's own apt sources for another suite.
func (r Release) Usr(ctx context.Context, c *Cache) (string, error) {
	if own, err := Own(ctx); err == nil && own == r {
		return "", nil
	}
	dir, err := c.Entry(ctx, "engine-"+r.Suite, r.unpack)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "root", "usr"), nil
}

// unpack downloads docker.io of the suite with everything it depends on and unpacks it in dir/root.
// The result is laid over a running system, so usr-merge links stand before the first package.
func (r Release) unpack(ctx context.Context, dir string) (err error) {
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.MkdirAll(filepath.Join(root, "usr", d), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(filepath.Join("usr", d), filepath.Join(root, d)); err != nil {
			return err
		}
	}
	apt, err := newApt(ctx, dir, r.Suite)
	if err != nil {
		return err
	}
	if err := apt.run(ctx, "update", "-q"); err != nil {
		return err
	}
	if err := apt.run(ctx, "install", "-y", "-q", "--download-only", "docker.io", "docker-cli"); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(apt.dir, "cache/archives/*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if out, err := exec.CommandContext(ctx, "dpkg", "-x", deb, root).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", deb, err, out)
		}
	}
	return os.RemoveAll(apt.dir)
}

// apt is an apt with nothing installed and a suite of its own.
type apt struct{ dir string }

func newApt(ctx context.Context, dir, suite string) (*apt, error) {
	a := &apt{dir: filepath.Join(dir, "apt")}
	for _, d := range []string{"sources", "state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	sources, err := suiteSources(ctx, suite)
	if err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "%[1]s/sources";
Dir::State "%[1]s/state";
Dir::State::status "%[1]s/state/status";
Dir::Cache "%[1]s/cache";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
`, a.dir)
	for name, text := range map[string]string{
		"sources/suite.sources": sources, "state/status": "", "apt.conf": conf,
	} {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *apt) run(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(a.dir, "apt.conf"), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", args[0], err, out)
	}
	return nil
}

// suiteSources takes the host's own source of Debian's main archive, whatever mirror that is, and
// returns it for another suite, in deb822 form.
func suiteSources(ctx context.Context, suite string) (string, error) {
	uri, err := mirror(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n", uri, suite,
		"/usr/share/keyrings/debian-archive-keyring.gpg"), nil
}

// mirror returns the URI from which the host gets the package dpkg, which is Debian's own archive.
func mirror(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(SITE) $(CODENAME) $(COMPONENT) $(LABEL)").Output()
	if err != nil {
		return "", fmt.Errorf("list apt sources: %w", err)
	}
	for line := range bytes.Lines(out) {
		if f := strings.Fields(string(line)); len(f) == 4 && f[2] == "main" && f[3] == "Debian" {
			return f[0], nil
		}
	}
	return "", errors.New("list apt sources: no source of Debian's main archive; run apt-get update first")
}
