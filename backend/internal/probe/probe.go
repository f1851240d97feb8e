// Package probe finds out what a file system and the kernel can do, by trying it. It never looks at
// version numbers: distributions move features between kernels.
//
// A [Prober] belongs to one directory. Each [Feature] is tried in a scratch directory inside it,
// which is removed afterwards. The answer is one of three:
//
//	nil                  it works
//	ErrNotImplemented    it does not; the text says what would be needed
//	any other error      could not tell, such as on a full or read-only file system
//
// The first two are remembered, the third is tried again at the next call. Probes need root.
package probe

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
)

// Feature is something that a directory's file system, or the kernel with it, may be able to do.
type Feature string

// What can be probed.
const (
	// DType: a directory listing tells what kind each entry is.
	DType Feature = "d_type"
	// Whiteout: a character device with number 0:0 can be made.
	Whiteout Feature = "whiteout"
	// TrustedXattr: trusted.* attributes can be set. Not so in a user namespace.
	TrustedXattr Feature = "trusted xattr"
	// UserXattr: user.* attributes can be set.
	UserXattr Feature = "user xattr"
	// Overlay: an overlay mount whose directories all lie here can be read, written and deleted from.
	Overlay Feature = "overlay"
	// OverlayUserXattr is Overlay with the option userxattr.
	OverlayUserXattr Feature = "overlay userxattr"
	// AddLower: overlay takes its lower directories in a call each.
	AddLower Feature = "overlay lowerdir+"
	// IDMap: a mount of this file system can show other owners than are on disk.
	IDMap Feature = "idmapped mount"
	// ProjectQuota: directories can be limited in size.
	ProjectQuota Feature = "project quota"
	// Reflink: files can share blocks.
	Reflink Feature = "reflink"
)

// optionPrefix begins the features that [OverlayOption] makes.
const optionPrefix = "overlay option "

// OverlayOption is the feature of understanding an option of an overlay mount, such as
// "metacopy=off" or "volatile".
func OverlayOption(word string) Feature { return Feature(optionPrefix + word) }

// scratchPrefix begins the names of scratch directories.
const scratchPrefix = ".probe-"

// Scratch reports whether a name in a directory is a Prober's scratch directory. One is left behind
// when a process is killed in the middle of a probe; [Prober.Sweep] removes those.
func Scratch(name string) bool { return strings.HasPrefix(name, scratchPrefix) }

// Prober probes one directory. It is safe for concurrent use.
type Prober struct {
	dir   string
	mu    sync.Mutex // serialises probes and guards known
	known map[Feature]error
}

// New makes a Prober for a directory. It probes nothing yet.
func New(dir string) *Prober { return &Prober{dir: dir, known: map[Feature]error{}} }

// Test tells whether the feature works.
func (p *Prober) Test(ctx context.Context, f Feature) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err, ok := p.known[f]; ok {
		return err
	}
	err := p.try(ctx, f)
	if err != nil {
		err = fmt.Errorf("%s in %s: %w", f, p.dir, err)
	}
	if err == nil || errdefs.IsNotImplemented(err) {
		p.known[f] = err
	}
	return err
}

// lacks is the conclusive answer "no".
func lacks(need string, cause error) error {
	if cause == nil {
		return fmt.Errorf("%s: %w", need, errdefs.ErrNotImplemented)
	}
	return fmt.Errorf("%s: %w: %w", need, cause, errdefs.ErrNotImplemented)
}
