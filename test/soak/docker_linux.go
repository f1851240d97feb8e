package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"

	"github.com/docker/docker/pkg/archive"

	"strata/test/e2e/engine"
	"strata/test/unixhttp"
)

// How many layers a client has, and how many lie above one another.
const (
	slots    = 12
	maxDepth = 8
)

// docker is a client of Docker's protocol.
type docker struct {
	*soaker
	rnd    *rand.Rand
	prefix string // of its layers' names
}

func (s *soaker) newDocker(n int) *docker {
	c := &docker{soaker: s, rnd: s.newRand(1, n), prefix: fmt.Sprintf("d%d-", n)}
	s.ledger.slots(c.prefix)
	s.ledger.slots(prefixAbort + c.prefix)
	return c
}

// acts are what a client does.
func (c *docker) acts() []act {
	return []act{
		{25, c.image},
		{15, c.container},
		{15, c.write},
		{12, c.diff},
		{8, c.look},
		{20, c.remove},
		{3, c.discard},
		{4, c.abort},
		{5, c.commit},
		{5, c.hold},
		{5, c.letGo},
		{6, c.exists},
		{4, c.ask},
		{5, c.clone},
		{3, c.remap},
	}
}

// post calls a method of the protocol.
func (s *soaker) post(ctx context.Context, method string, in map[string]any, out any) error {
	return s.call(ctx, method, func(ctx context.Context) error {
		return s.d.to().docker.JSON(ctx, http.MethodPost, "/GraphDriver."+method, in, out)
	})
}

// apply fills a layer.
func (s *soaker) apply(ctx context.Context, name, parent string, text []byte) error {
	return s.call(ctx, "ApplyDiff", func(ctx context.Context) error {
		body := struct{ io.Reader }{bytes.NewReader(text)} // its length is not known, as that of Docker's
		return s.d.to().docker.Call(ctx, http.MethodPost, "/GraphDriver.ApplyDiff?id="+name+"&parent="+parent, "", body, unixhttp.Drain)
	})
}

// parent chooses a layer to stand on, or none.
func (c *docker) parent() (name string, tree engine.Manifest) {
	name = choose(c.rnd, c.ledger.there(c.prefix, func(name string, e entry) bool {
		return e.readable() && !e.mayBeMounted() && c.ledger.depth(name) < maxDepth
	}))
	if name == "" || c.rnd.IntN(5) == 0 {
		return "", engine.Manifest{}
	}
	c.ledger.fix(name)
	e, _ := c.ledger.entry(name)
	return name, e.may[0].tree
}

// create makes a layer on a parent. It returns "" if there is no name for it, or if that failed.
func (c *docker) create(ctx context.Context, method, parent string, tree engine.Manifest) string {
	return c.createAs(ctx, choose(c.rnd, c.ledger.free(c.prefix)), method, parent, tree)
}

// createAs is create under a name.
func (c *docker) createAs(ctx context.Context, name, method, parent string, tree engine.Manifest) string {
	if name == "" {
		return ""
	}
	p := &promise{parent: parent, tree: tree}
	c.ledger.begin(name, p)
	if err := c.post(ctx, method, map[string]any{"ID": name, "Parent": parent}, nil); err != nil {
		return ""
	}
	c.ledger.settle(name, p)
	return name
}

// image makes a layer and fills it from a tar.
func (c *docker) image(ctx context.Context) {
	parent, below := c.parent()
	name := c.create(ctx, "Create", parent, below)
	if name == "" {
		return
	}
	ch, err := newChange(c.rnd, below)
	if err != nil {
		c.report.lose(lossFailed, "%v", err)
		return
	}
	c.fill(ctx, name, ch)
}

// fill fills a new layer.
func (c *docker) fill(ctx context.Context, name string, ch change) {
	e, _ := c.ledger.entry(name)
	parent := e.may[0].parent
	full := &promise{parent: parent, digest: ch.digest, tree: ch.tree, fixed: true}
	c.ledger.begin(name, full, nil, &promise{parent: parent, half: true})
	if err := c.apply(ctx, name, parent, ch.tar); err == nil {
		c.ledger.settle(name, full)
	}
}

// container makes a layer that is written to.
func (c *docker) container(ctx context.Context) {
	parent, below := c.parent()
	if name := c.create(ctx, "CreateReadWrite", parent, below); name != "" {
		c.writeTo(ctx, name)
	}
}

// writable chooses a layer that can be written to.
func (c *docker) writable(mounted bool) string {
	return choose(c.rnd, c.ledger.there(c.prefix, func(_ string, e entry) bool {
		return e.readable() && !e.is().fixed && e.mayBeMounted() == mounted
	}))
}

func (c *docker) write(ctx context.Context) {
	if name := c.writable(false); name != "" {
		c.writeTo(ctx, name)
	}
}

// writeTo changes a layer as a container does.
func (c *docker) writeTo(ctx context.Context, name string) {
	dir, ok := c.get(ctx, name)
	if !ok {
		return
	}
	c.writeInto(name, dir)
	c.put(ctx, name)
}

// get mounts a layer.
func (c *docker) get(ctx context.Context, name string) (dir string, ok bool) {
	var reply struct{ Dir string }
	c.ledger.mounted(name, 0, 1)
	if err := c.post(ctx, "Get", map[string]any{"ID": name}, &reply); err != nil {
		return "", false
	}
	c.ledger.mounted(name, 1)
	return c.d.m.Path(reply.Dir), true
}

// put unmounts a layer.
func (c *docker) put(ctx context.Context, name string) {
	c.ledger.mounted(name, 0, 1)
	if err := c.post(ctx, "Put", map[string]any{"ID": name}, nil); err == nil {
		c.ledger.mounted(name, 0)
	}
}

// writeInto changes what is mounted in dir.
func (s *soaker) writeInto(name, dir string) {
	e, _ := s.ledger.entry(name)
	p := *e.may[0]
	ch, err := newChange(s.newRand(3, int(s.writes.Add(1))), p.tree)
	if err == nil {
		_, err = archive.UnpackLayer(dir, bytes.NewReader(ch.tar), &archive.TarOptions{})
	}
	p.tree = ch.tree
	if err != nil {
		p.tree = nil
	}
	s.ledger.settle(name, &p)
	s.note("write into a mount", err)
}

// diff reads back what a layer was filled with.
func (c *docker) diff(ctx context.Context) {
	name := choose(c.rnd, c.ledger.there(c.prefix, func(_ string, e entry) bool { return e.is().digest != "" && !e.is().orphan }))
	if name == "" {
		return
	}
	e, _ := c.ledger.entry(name)
	sum := sha256.New()
	if err := c.diffTo(ctx, name, e.may[0].parent, sum); err != nil {
		return
	}
	if got := fmt.Sprintf("%x", sum.Sum(nil)); got != e.may[0].digest {
		c.report.lose(lossWrong, "diff of %s has digest %s, want %s", name, got, e.may[0].digest)
	}
}

func (c *docker) diffTo(ctx context.Context, name, parent string, w io.Writer) error {
	return c.call(ctx, "Diff", func(ctx context.Context) error {
		body := fmt.Sprintf(`{"ID":%q,"Parent":%q}`, name, parent)
		return c.d.to().docker.Call(ctx, http.MethodPost, "/GraphDriver.Diff", "", bytes.NewReader([]byte(body)), func(r io.Reader) error {
			_, err := io.Copy(w, r)
			return err
		})
	})
}

// look compares what a mounted layer shows with what it should.
func (c *docker) look(ctx context.Context) {
	name := choose(c.rnd, c.ledger.there(c.prefix, func(_ string, e entry) bool { return e.readable() && !e.mayBeMounted() }))
	if name == "" {
		return
	}
	dir, ok := c.get(ctx, name)
	if !ok {
		return
	}
	c.compare(name, dir)
	c.put(ctx, name)
}

// compare holds a mounted layer to the ledger.
func (s *soaker) compare(name, dir string) {
	e, _ := s.ledger.entry(name)
	if !e.readable() {
		return
	}
	got, err := treeOf(dir)
	s.note("read a mount", err)
	if diff := difference(e.may[0].tree, got); err == nil && diff != "" {
		s.report.lose(lossWrong, "layer %s: %s", name, diff)
	}
}

// remove removes a layer without children.
func (c *docker) remove(ctx context.Context) {
	name := choose(c.rnd, c.ledger.there(c.prefix, anything))
	if name != "" && len(c.ledger.children(name)) == 0 {
		c.removeLayer(ctx, name)
	}
}

func (c *docker) removeLayer(ctx context.Context, name string) {
	c.ledger.begin(name, nil)
	c.ledger.mounted(name, 0, 1)
	if err := c.post(ctx, "Remove", map[string]any{"ID": name}, nil); err == nil {
		c.ledger.settle(name, nil)
	}
}

// discard removes a layer with children, as Docker does that has forgotten them. They stay.
func (c *docker) discard(ctx context.Context) {
	name := choose(c.rnd, c.ledger.there(c.prefix, func(name string, _ entry) bool { return len(c.ledger.children(name)) > 0 }))
	if name == "" {
		return
	}
	c.ledger.bereave(c.ledger.children(name))
	c.removeLayer(ctx, name)
}

// errAborted is why a client stops in the middle of a tar.
var errAborted = errors.New("the client stops here")

// prefixAbort begins the names of layers that are never filled.
const prefixAbort = "abort-"

// abort stops in the middle of filling a layer, and removes it. The program may begin with the call only after that, so only
// such layers get the name.
func (c *docker) abort(ctx context.Context) {
	name := c.createAs(ctx, choose(c.rnd, c.ledger.free(prefixAbort+c.prefix)), "Create", "", engine.Manifest{})
	if name == "" {
		return
	}
	ch, err := newChange(c.rnd, engine.Manifest{})
	if err != nil {
		c.report.lose(lossFailed, "%v", err)
		return
	}
	c.ledger.begin(name, nil, &promise{half: true})
	cut := io.MultiReader(bytes.NewReader(ch.tar[:c.rnd.IntN(len(ch.tar)-1)+1]), failing{})
	err = c.d.to().docker.Call(ctx, http.MethodPost, "/GraphDriver.ApplyDiff?id="+name+"&parent=", "", cut, unixhttp.Drain)
	if err == nil {
		c.report.lose(lossFailed, "ApplyDiff of a part of a tar to %s: no error", name)
	}
	c.report.call("ApplyDiff of a part", nil, false)
	if !c.d.dying.Load() {
		c.removeLayer(ctx, name)
	}
}

// failing is a stream that breaks.
type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errAborted }

// commit makes an image of a container, as docker commit does.
func (c *docker) commit(ctx context.Context) {
	from := c.writable(false)
	e, _ := c.ledger.entry(from)
	if from == "" || e.may[0].orphan {
		return
	}
	var text bytes.Buffer
	if err := c.diffTo(ctx, from, e.may[0].parent, &text); err != nil {
		return
	}
	below := engine.Manifest{}
	if b, ok := c.ledger.entry(e.may[0].parent); ok {
		below = b.may[0].tree
	}
	if name := c.create(ctx, "Create", e.may[0].parent, below); name != "" {
		c.fill(ctx, name, change{text.Bytes(), fmt.Sprintf("%x", sha256.Sum256(text.Bytes())), e.may[0].tree})
	}
}

// hold mounts a layer for a while, which outlives the program.
func (c *docker) hold(ctx context.Context) {
	if name := c.writable(false); name != "" && len(c.ledger.children(name)) == 0 {
		c.get(ctx, name)
	}
}

// letGo ends that, and writes before at times.
func (c *docker) letGo(ctx context.Context) {
	name := c.writable(true)
	e, _ := c.ledger.entry(name)
	if name == "" || !slices.Equal(e.mounts, []int{1}) {
		return
	}
	if info, err := c.stat(ctx, name); err == nil && c.rnd.IntN(2) == 0 {
		c.writeInto(name, c.d.m.Path(info.MountDir))
		c.compare(name, c.d.m.Path(info.MountDir))
	}
	c.put(ctx, name)
}

// exists asks about a name.
func (c *docker) exists(ctx context.Context) {
	name := fmt.Sprintf("%s%02d", c.prefix, c.rnd.IntN(slots))
	e, _ := c.ledger.entry(name)
	var reply struct{ Exists bool }
	if err := c.post(ctx, "Exists", map[string]any{"ID": name}, &reply); err != nil || len(e.may) > 1 || e.mayBeHalf() {
		return // what is half may have been removed by a repair
	}
	if reply.Exists != (e.may[0] != nil) {
		c.report.lose(lossGone, "Exists of %s is %v", name, reply.Exists)
	}
}

// ask asks what else Docker asks about a layer.
func (c *docker) ask(ctx context.Context) {
	name := choose(c.rnd, c.ledger.there(c.prefix, func(_ string, e entry) bool { return e.readable() && !e.is().orphan }))
	if name == "" {
		return
	}
	e, _ := c.ledger.entry(name)
	method := []string{"Changes", "DiffSize", "GetMetadata"}[c.rnd.IntN(3)]
	_ = c.post(ctx, method, map[string]any{"ID": name, "Parent": e.may[0].parent}, nil) // it is in the report
}
