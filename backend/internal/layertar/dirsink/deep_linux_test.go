package dirsink

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"

	"strata/backend/internal/dirfd"
	"strata/backend/internal/layertar/tarlog"
	"strata/backend/internal/layertar/tartest"
	"strata/backend/internal/layertar/unpack"
)

// TestDeep holds that names deeper than any path can say are unpacked, settled and removed again without a descriptor for each
// directory and within seconds, and that a name which would take for ever is refused.
func TestDeep(t *testing.T) {
	tartest.NeedRoot(t)
	below := &plainBelow{dir: t.TempDir()}
	deep := strings.Repeat("d/", 8000) // where a cost per step that grows with the square of the depth takes minutes
	for name, open := range map[string]func() (backend.Below, error){"known": below.open, "late": nil} {
		t.Run(name, func(t *testing.T) {
			before, dir := cpuOf(t), t.TempDir()
			o := Options{Whiteouts: overlay, Below: open}
			_, err := Apply(t.Context(), dir, bytes.NewReader(tartest.Make(t, tartest.File(deep+"f", ""))), o, unpack.Options{})
			assert.NilError(t, err)
			// Once more: the directories were there before, and they hold something for a while.
			o.Below = open
			members := []tartest.Member{tartest.File(deep+"g", ""), tartest.File(deep+".wh.f", ""), tartest.File("d/.wh..wh..opq", ""), tartest.Symlink("d", "nowhere")}
			_, err = Apply(t.Context(), dir, bytes.NewReader(tartest.Make(t, members[:3]...)), o, unpack.Options{})
			assert.NilError(t, err)
			o.Below = below.open
			assert.NilError(t, Settle(t.Context(), dir, o))
			_, err = Apply(t.Context(), dir, bytes.NewReader(tartest.Make(t, members[3])), o, unpack.Options{})
			assert.NilError(t, err)
			assert.Assert(t, cpuOf(t)-before < 30*time.Second, "it took %v", cpuOf(t)-before)
			list, err := os.ReadDir(dir)
			assert.NilError(t, err)
			assert.Equal(t, len(list), 1)
		})
	}
	tooDeep := tartest.Make(t, tartest.File(strings.Repeat("a/", 500000)+"f", ""))
	_, err := Apply(t.Context(), t.TempDir(), bytes.NewReader(tooDeep), Options{Whiteouts: overlay, Below: below.open}, unpack.Options{})
	assert.Assert(t, errdefs.IsInvalidArgument(err), "%.500s", errors.Join(err).Error())
}

// TestFarDirectoryGivesWay: a directory whose path no call takes is replaced, or deleted, as any other: the
// tar comes back from its log, and what the tar itself has put into the directory stays.
func TestFarDirectoryGivesWay(t *testing.T) {
	tartest.NeedRoot(t)
	for _, depth := range []int{3, 20} {
		far := strings.Repeat(strings.Repeat("n", 240)+"/", depth)
		t.Run(fmt.Sprint(depth), func(t *testing.T) {
			dir, path := t.TempDir(), filepath.Join(t.TempDir(), "log")
			log, err := tarlog.Create(path)
			assert.NilError(t, err)
			tar := tartest.Make(t, tartest.File(far+"x/f", "data"), tartest.File(far+"x", "a file now"))
			_, err = Apply(t.Context(), dir, bytes.NewReader(tar), Options{}, unpack.Options{Log: log})
			assert.NilError(t, err)
			assert.NilError(t, log.Close())
			back, err := tarlog.Open(path)
			assert.NilError(t, err)
			src, err := Open(dir)
			assert.NilError(t, err)
			var out bytes.Buffer
			assert.NilError(t, back.Replay(t.Context(), &out, src))
			assert.NilError(t, errors.Join(src.Close(), back.Close()))
			assert.Assert(t, bytes.Equal(out.Bytes(), tar))

			dir = t.TempDir()
			for _, tar := range [][]byte{
				tartest.Make(t, tartest.File(far+"x/old", "")),
				tartest.Make(t, tartest.File(far+"x/new", ""), tartest.File(far+".wh.x", "")),
			} {
				_, err = Apply(t.Context(), dir, bytes.NewReader(tar), Options{}, unpack.Options{})
				assert.NilError(t, err)
			}
			d, err := dirfd.Open(dir)
			assert.NilError(t, err)
			defer d.Close()
			for name, want := range map[string]error{"new": nil, "old": unix.ENOENT} {
				_, err := d.Lstat(far + "x/" + name)
				assert.Assert(t, errors.Is(err, want), "%s: %v", name, err)
			}
		})
	}
}
