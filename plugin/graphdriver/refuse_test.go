package graphdriver

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend/store"
	"strata/plugin/keeper"
)

// TestRefuse: a program that cannot work answers everything with the reason, whatever an earlier process was told.
func TestRefuse(t *testing.T) {
	root := t.TempDir()
	newRigIn(t, root, Options{}).init() // an earlier process
	r := newRigIn(t, root, Options{})
	r.k.Refuse(errors.New("option sync is wrong"))
	r.k.Refuse(errors.New("and another thing"))
	_, err := r.call("Init", keeper.Init{Home: "/home"})
	assert.ErrorContains(t, err, "option sync is wrong")
	for _, method := range []string{
		"Create", "CreateReadWrite", "Remove", "Get", "Put", "Exists", "GetMetadata", "Diff", "Changes", "DiffSize", "Capabilities", "Cleanup",
	} {
		_, err := r.call(method, arguments{ID: id("a")})
		assert.ErrorContains(t, err, "option sync is wrong", method)
	}
	assert.DeepEqual(t, r.ok("Status", arguments{}).Status, [][2]string{{"Backend", "not available"}, {"ERROR", "option sync is wrong"}})
	assert.Equal(t, len(r.opened), 0)
}

// TestUnseen: nothing is mounted where Docker would not see it.
func TestUnseen(t *testing.T) {
	var lost error
	r := newRig(t, Options{Unseen: func() error { return lost }})
	r.init()
	_, err := r.call("Get", arguments{ID: id("a")})
	assert.NilError(t, err)
	lost = errors.New("taken away")
	r.fake.take()
	_, err = r.call("Get", arguments{ID: id("a")})
	assert.ErrorContains(t, err, "taken away")
	assert.Equal(t, len(r.fake.take()), 0)
	_, err = r.call("Put", arguments{ID: id("a")})
	assert.NilError(t, err)
}

// TestStatusMakesNoStore: with containerd served, too, a store may be opened without Docker's Init, but not by a question of Docker's.
func TestStatusMakesNoStore(t *testing.T) {
	o := keeping(t, t.TempDir(), []string{"snapshotter-socket=/run/strata/snapshotter.sock"}, nameless()...)
	h := New(keeper.Over(o, func(context.Context, store.Config) (strict, error) {
		t.Error("the store is opened")
		return strict{t}, nil
	}), Options{})
	for _, method := range []string{"Status", "Capabilities", "Cleanup"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/GraphDriver."+method, strings.NewReader("{}")))
		assert.Equal(t, w.Code, http.StatusOK, method)
	}
}
