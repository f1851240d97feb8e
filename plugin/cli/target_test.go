package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend/store"
	"strata/plugin/control"
	"strata/plugin/control/controltest"
)

func TestFind(t *testing.T) {
	f := controltest.New()
	f.Layers = nil
	for _, name := range []string{"aa11", "aa12", "bb11", "bb11-init", "cc1", "cc12"} {
		f.Layers = append(f.Layers, store.Info{Name: name})
	}
	at := &target{Store: f}
	for name, want := range map[string]string{"aa11": "aa11", "aa12": "aa12", "b": "bb11", "bb11-": "bb11-init", "cc1": "cc1"} {
		l, err := at.find(t.Context(), name)
		assert.NilError(t, err)
		assert.Equal(t, l.Name, want)
	}
	f.Layers[0].ID, f.Layers[1].ID, f.Layers[2].ID = "zz1", "bb11-init", "aa12"
	for name, want := range map[string]string{"zz1": "aa11", "zz": "aa11", "aa12": "aa12", "bb11-init": "bb11-init"} {
		l, err := at.find(t.Context(), name)
		assert.NilError(t, err)
		assert.Equal(t, l.Name, want)
	}
	f.Layers[2].ID = ""
	_, err := at.find(t.Context(), "aa")
	assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
	assert.ErrorContains(t, err, "any of 2")
	for _, name := range []string{"", "x", "aa111"} {
		_, err := at.find(t.Context(), name)
		assert.Assert(t, errdefs.IsNotFound(err), "%q: %v", name, err)
	}
}

func TestJudge(t *testing.T) {
	now := time.Now()
	deadline := now.Add(-time.Hour)
	old, young := now.Add(-2*time.Hour), now
	kit := strings.Repeat("k", 25)
	ready := store.StateReady
	for _, tc := range []struct {
		name         string
		layers       []store.Info
		docker, keep string // names
		doubtful     string // given that BuildKit's record is missing
	}{
		{"known", []store.Info{{Name: "a", State: ready, Created: old}}, "a", "a", ""},
		{"orphan", []store.Info{{Name: "a", State: ready, Created: old}}, "", "", ""},
		{"what a known one stands on", []store.Info{{Name: "c", Parent: "b", State: ready, Created: old}, {Name: "b", Parent: "a", State: ready, Created: old}, {Name: "a", State: ready, Created: old}}, "c", "a b c", ""},
		{"what stands on a known one", []store.Info{{Name: "b", Parent: "a", State: ready, Created: old}, {Name: "a", State: ready, Created: old}}, "a", "a", ""},
		{"mounted", []store.Info{{Name: "b", Parent: "a", State: ready, Created: old, Mounts: 1}, {Name: "a", State: ready, Created: old}}, "", "a b", ""},
		{"young", []store.Info{{Name: "a", State: ready, Created: young}}, "", "a", ""},
		{"being filled", []store.Info{{Name: "a", State: store.StateApplying, Created: old}}, "", "a", ""},
		{"BuildKit's", []store.Info{{Name: kit, Parent: "a", State: ready, Created: old}, {Name: "a", State: ready, Created: old}}, "", "a " + kit, kit},
		{"BuildKit's, known", []store.Info{{Name: kit, State: ready, Created: old}}, kit, kit, ""},
		{"containerd's", []store.Info{{Name: "containerd/a", State: ready, Created: old}}, "", "containerd/a", ""},
		{"known, but not there", nil, "a", "a", ""},
		{"a cycle", []store.Info{{Name: "a", Parent: "b", State: ready, Created: young}, {Name: "b", Parent: "a", State: ready, Created: old}}, "", "a b", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			keep, doubtful := judge(tc.layers, set(tc.docker), false, deadline)
			assert.DeepEqual(t, keep, set(tc.keep))
			if tc.doubtful != "" {
				keep, none := judge(tc.layers, set(tc.docker), true, deadline)
				assert.Assert(t, len(keep) == 0 && len(none) == 0, "%v %v", keep, none)
			}
			var names []string
			for _, o := range doubtful {
				names = append(names, o.Name)
			}
			assert.Equal(t, strings.Join(names, " "), tc.doubtful)
		})
	}
}

func set(names string) map[string]bool {
	m := map[string]bool{}
	for name := range strings.FieldsSeq(names) {
		m[name] = true
	}
	return m
}

func TestBuildKit(t *testing.T) {
	for name, want := range map[string]bool{
		"0123456789abcdefghijklmno": true, "0123456789abcdefghijklmn": false, "0123456789abcdefghijklmnop": false,
		"0123456789abcdefghijklmn-": false, "0123456789ABCDEFGHIJKLMNO": false,
	} {
		assert.Equal(t, buildKit(name), want, name)
	}
}

func TestShort(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 4)
	for name, want := range map[string]string{long: "0123456789ab", long + "-init": "0123456789ab-init", "short": "short", "a-b": "a-b", "": ""} {
		assert.Equal(t, short(name), want)
	}
}

func TestNoTerminal(t *testing.T) {
	var b strings.Builder
	assert.Assert(t, !isTerminal(&b))
	p := progress{w: &b}
	p.show("%d", 1)
	p.show("%d", 2) // too soon
	p.done()
	assert.Equal(t, b.String(), eraseLine+"1"+eraseLine)
	quiet := progress{}
	quiet.show("nothing")
	quiet.done()
}

func TestOrphansHaveSizes(t *testing.T) {
	var out bytes.Buffer
	kilo, mega := int64(1000), int64(1_000_000)
	printOrphans(&out, []store.Orphan{
		{Name: "a", ID: "ida", Size: &kilo, Reason: "x"}, {ID: "idb", Size: &mega, Reason: "y", Removed: true}, {ID: "idc", Reason: "z"},
	})
	assert.Equal(t, out.String(), strings.Join([]string{
		"NAME\tID\tON DISK\tREMOVED\tWHY", "a\tida\t1kB\tno\tx", "-\tidb\t1MB\tyes\ty", "-\tidc\t-\tno\tz", "total\t-\t1MB\t-\t-", "",
	}, "\n"))
}

func TestUsageNamesWhatIsDamaged(t *testing.T) {
	list := []control.LayerUsage{{Name: "a", Damaged: "the record below it is missing"}, {Name: "b", Size: 1000, Inodes: 2}}
	var out bytes.Buffer
	usages(&out, list)
	assert.Equal(t, out.String(), "NAME\tON DISK\tINODES\tREMOVED\na\t-\t-\t-\nb\t1kB\t2\t-\ntotal\t1kB\t2\t-\n")
	assert.ErrorContains(t, unmeasured(list), "1 layer is damaged")
	assert.NilError(t, unmeasured(list[1:]))
}
