package cli_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"

	"github.com/rogpeppe/go-internal/testscript"

	"strata/backend"
	"strata/backend/all"
	"strata/backend/store"
)

// vfs is the backend that works on every file system.
func vfs() backend.Driver {
	for _, d := range all.Backends() {
		if d.Name == "vfs" {
			return d
		}
	}
	panic("there is no vfs")
}

// mkstore makes a store with one layer that holds one file: mkstore DIR.
func mkstore(ts *testscript.TestScript, _ bool, args []string) {
	ctx := context.Background()
	st, err := store.Open(ctx, store.Config{Root: ts.MkAbs(args[0]), Backend: "vfs", ExactDiffs: true, New: func(ctx context.Context, env backend.Env) (backend.Backend, error) {
		v := vfs()
		return v.Open(ctx, env, v.Config())
	}})
	ts.Check(err)
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	content := []byte("content\n")
	ts.Check(w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(content)), Format: tar.FormatPAX}))
	_, err = w.Write(content)
	ts.Check(errors.Join(err, w.Close()))
	ts.Check(st.Create(ctx, ts.Getenv("A"), "", store.CreateOptions{}))
	_, err = st.Apply(ctx, ts.Getenv("A"), &layer)
	ts.Check(errors.Join(err, st.Close(ctx)))
}
