package dirsink

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend"

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
