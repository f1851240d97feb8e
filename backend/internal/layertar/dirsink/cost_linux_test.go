package dirsink

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend/internal/layertar/pack"
	"strata/backend/internal/layertar/tarcodec"
	"strata/backend/internal/layertar/tarlog"
	"strata/backend/internal/layertar/tartest"
	"strata/backend/internal/layertar/unpack"
)

// costShape is a kind of tar that wants more work than it looks, of any size.
type costShape struct {
	name  string
	n     int                          // how many of what it repeats are enough to measure
	below func(n int) []tartest.Member // what the layers below have
	tar   func(n int) []tartest.Member
	text  func(t testing.TB, n int) []byte // in place of tar: what archive/tar does not write
	fails bool                             // it is refused, in the end
}

func (s *costShape) data(t testing.TB, n int) []byte {
	t.Helper()
	if s.text != nil {
		return s.text(t, n)
	}
	return tartest.Make(t, s.tar(n)...)
}

// repeat makes members of each number below n.
func repeat(n int, each func(i int) []tartest.Member) []tartest.Member {
	var all []tartest.Member
	for i := range n {
		all = append(all, each(i)...)
	}
	return all
}

func nothing(int) []tartest.Member { return nil }

func costShapes() []costShape {
	var all []costShape
	for _, group := range [][]costShape{linkShapes(), flipShapes(), markShapes(), headerShapes(), nameShapes(), fileShapes()} {
		all = append(all, group...)
	}
	for i := range all {
		if all[i].below == nil {
			all[i].below = nothing
		}
	}
	return all
}

func linkShapes() []costShape {
	x := tartest.File("x", "x")
	early := func(n int) []tartest.Member {
		return repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.Link(fmt.Sprint("l/", i), "x")} })
	}
	return []costShape{
		{name: "links before their target", n: 8000, tar: func(n int) []tartest.Member { return append(early(n), x) }},
		{name: "links that never get one", n: 8000, tar: early, fails: true},
		{name: "chain of links, last first", n: 8000, tar: func(n int) []tartest.Member {
			return append(repeat(n, func(i int) []tartest.Member {
				return []tartest.Member{tartest.Link(fmt.Sprint("l", i), fmt.Sprint("l", i+1))}
			}), tartest.File(fmt.Sprint("l", n), "x"))
		}},
		{name: "chain of links, first last", n: 8000, tar: func(n int) []tartest.Member {
			return append(repeat(n, func(i int) []tartest.Member {
				return []tartest.Member{tartest.Link(fmt.Sprint("l", i+1), fmt.Sprint("l", i))}
			}), tartest.File("l0", "x"))
		}},
		{name: "circle of links", n: 8000, fails: true, tar: func(n int) []tartest.Member {
			return repeat(n, func(i int) []tartest.Member {
				return []tartest.Member{tartest.Link(fmt.Sprint("l", i), fmt.Sprint("l", (i+1)%n))}
			})
		}},
		{name: "one link again and again", n: 8000, tar: func(n int) []tartest.Member {
			return append(repeat(n, func(int) []tartest.Member { return []tartest.Member{tartest.Link("l", "x")} }), x)
		}},
		{name: "links in one directory each", n: 3000, tar: func(n int) []tartest.Member {
			return append(repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.Link(fmt.Sprint(i, "/l"), "x")} }), x)
		}},
		{name: "links to one file", n: 8000, tar: func(n int) []tartest.Member {
			return append([]tartest.Member{x}, early(n)...)
		}},
		{name: "links and what replaces them", n: 4000, tar: func(n int) []tartest.Member {
			return append(append(early(n), repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.File(fmt.Sprint("l/", i), "y")} })...), x)
		}},
		{name: "links and flips", n: 3000, tar: func(n int) []tartest.Member {
			return append(append(early(n), repeat(n, func(int) []tartest.Member { return []tartest.Member{tartest.Dir("d"), tartest.Symlink("d", "nowhere")} })...), x)
		}},
		{name: "links deleted and made again", n: 2000, tar: func(n int) []tartest.Member {
			return append(repeat(n, func(int) []tartest.Member {
				return []tartest.Member{tartest.Dir("d"), tartest.Link("d/l", "x"), tartest.File("d", "")}
			}), x)
		}},
		{name: "links into the area", n: 3000, tar: func(n int) []tartest.Member {
			return repeat(n, func(i int) []tartest.Member {
				return []tartest.Member{tartest.File(fmt.Sprint(tarcodec.LinkArea, "/", i), "x"), tartest.Link(fmt.Sprint(i), fmt.Sprint(tarcodec.LinkArea, "/", i))}
			})
		}},
	}
}

func flipShapes() []costShape {
	beside := func(n int) []tartest.Member {
		return repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.File(fmt.Sprint("t/", i), "")} })
	}
	return []costShape{
		{name: "flips", n: 2000, tar: func(n int) []tartest.Member {
			return repeat(n, func(int) []tartest.Member {
				return []tartest.Member{tartest.Dir("d"), tartest.Symlink("d", "e"), tartest.File("d", "x")}
			})
		}},
		{name: "flips of what is below", n: 2000, below: func(int) []tartest.Member { return []tartest.Member{tartest.File("d/e/f", "")} }, tar: func(n int) []tartest.Member {
			return repeat(n, func(int) []tartest.Member {
				return []tartest.Member{tartest.Dir("d"), tartest.File("d/e/g", ""), tartest.Symlink("d", "e"), tartest.File("d", "x")}
			})
		}},
		{name: "flips of trees", n: 300, tar: func(n int) []tartest.Member {
			return repeat(n, func(int) []tartest.Member {
				return append(append([]tartest.Member{tartest.Dir("d")}, repeat(10, func(i int) []tartest.Member { return []tartest.Member{tartest.File(fmt.Sprint("d/", i, "/f"), "x")} })...), tartest.Symlink("d", "e"))
			})
		}},
		{name: "flips beside a tree", n: 2000, tar: func(n int) []tartest.Member {
			return append(beside(n), repeat(n, func(int) []tartest.Member { return []tartest.Member{tartest.Dir("d"), tartest.File("d", "x")} })...)
		}},
		{name: "flips in a tree", n: 2000, tar: func(n int) []tartest.Member {
			return append(beside(n), repeat(n, func(int) []tartest.Member { return []tartest.Member{tartest.Dir("t/d"), tartest.File("t/d", "x")} })...)
		}},
		{name: "flips of a symlink on the way", n: 2000, tar: func(n int) []tartest.Member {
			return append([]tartest.Member{tartest.Dir("a"), tartest.Dir("b")}, repeat(n, func(i int) []tartest.Member {
				return []tartest.Member{tartest.Symlink("l", "a"), tartest.File(fmt.Sprint("l/", i), ""), tartest.Symlink("l", "b"), tartest.File(fmt.Sprint("l/", i), "")}
			})...)
		}},
		{name: "one file again and again", n: 6000, tar: func(n int) []tartest.Member {
			return repeat(n, func(int) []tartest.Member { return []tartest.Member{tartest.File("f", "x")} })
		}},
		{name: "one directory again and again", n: 6000, below: func(int) []tartest.Member { return []tartest.Member{tartest.Dir("d")} }, tar: func(n int) []tartest.Member {
			return repeat(n, func(int) []tartest.Member { return []tartest.Member{tartest.Dir("d")} })
		}},
	}
}

func markShapes() []costShape {
	tree := func(n int) []tartest.Member {
		return repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.File(fmt.Sprint("w/", i), "")} })
	}
	dirs := func(n int) []tartest.Member {
		return repeat(n, func(i int) []tartest.Member {
			return []tartest.Member{tartest.Dir(fmt.Sprint("w/", i)), tartest.Dir(fmt.Sprint("w/", i, "/d"))}
		})
	}
	again := func(n int, mark string, more func(i int) []tartest.Member) []tartest.Member {
		return repeat(n, func(i int) []tartest.Member { return append(more(i), tartest.File(mark, "")) })
	}
	name := func(i int) []tartest.Member { return []tartest.Member{tartest.File(fmt.Sprint("w/n", i), "")} }
	sub := func(i int) []tartest.Member { return []tartest.Member{tartest.Dir(fmt.Sprint("w/n", i))} }
	none := func(int) []tartest.Member { return nil }
	deep := strings.Repeat("d/", 100)
	return []costShape{
		{name: "whiteouts", n: 4000, below: tree, tar: func(n int) []tartest.Member {
			return repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.File(fmt.Sprint("w/.wh.", i), "")} })
		}},
		{name: "whiteouts of nothing", n: 4000, tar: func(n int) []tartest.Member {
			return repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.File(fmt.Sprint("w/.wh.", i), "")} })
		}},
		{name: "whiteout of a tree again", n: 3000, below: dirs, tar: func(n int) []tartest.Member { return again(n, ".wh.w", name) }},
		{name: "whiteout of a tree again, directories", n: 3000, below: dirs, tar: func(n int) []tartest.Member { return again(n, ".wh.w", sub) }},
		{name: "whiteout of the tar's tree again", n: 2000, tar: func(n int) []tartest.Member { return append(dirs(n), again(n, ".wh.w", none)...) }},
		{name: "whiteouts of the tar's files", n: 4000, tar: func(n int) []tartest.Member {
			return append(tree(n), repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.File(fmt.Sprint("w/.wh.", i), "")} })...)
		}},
		{name: "whiteouts of the tar's directories", n: 2000, below: dirs, tar: func(n int) []tartest.Member {
			return append(dirs(n), repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.File(fmt.Sprint("w/.wh.", i), "")} })...)
		}},
		{name: "opaque again", n: 3000, below: dirs, tar: func(n int) []tartest.Member { return again(n, "w/.wh..wh..opq", name) }},
		{name: "opaque again, directories", n: 3000, below: dirs, tar: func(n int) []tartest.Member { return again(n, "w/.wh..wh..opq", sub) }},
		{name: "opaque root again", n: 3000, below: tree, tar: func(n int) []tartest.Member {
			return again(n, ".wh..wh..opq", func(i int) []tartest.Member { return []tartest.Member{tartest.Dir(fmt.Sprint(i))} })
		}},
		{name: "whiteout and opaque", n: 3000, below: dirs, tar: func(n int) []tartest.Member {
			return again(n, ".wh.w", func(i int) []tartest.Member { return append(name(i), tartest.File("w/.wh..wh..opq", "")) })
		}},
		{name: "opaque from below", n: 800, tar: func(n int) []tartest.Member {
			return append([]tartest.Member{tartest.File(strings.Repeat("d/", n)+"f", "")}, repeat(20, func(i int) []tartest.Member {
				return []tartest.Member{tartest.File(strings.Repeat("d/", n-i*n/20)+".wh..wh..opq", "")}
			})...)
		}},
		{name: "whiteouts of a tree and its file", n: 1000, tar: func(n int) []tartest.Member {
			return again(n, ".wh.w", func(i int) []tartest.Member {
				return append(append([]tartest.Member{tartest.Dir("w")}, dirs(2)...), tartest.File("w", ""))
			})
		}},
		{name: "deep whiteouts", n: 1000, below: func(int) []tartest.Member { return []tartest.Member{tartest.File(deep+"f", "")} }, tar: func(n int) []tartest.Member {
			return repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.File(fmt.Sprint(deep, ".wh.", i), "")} })
		}},
		{name: "whiteouts as deep as there are", n: 800, below: nothing, tar: func(n int) []tartest.Member {
			return append([]tartest.Member{tartest.File(strings.Repeat("d/", n)+"f", "")}, repeat(20, func(i int) []tartest.Member {
				return []tartest.Member{tartest.File(fmt.Sprint(strings.Repeat("d/", n), ".wh.", i), "")}
			})...)
		}},
		{name: "deep whiteouts where nothing is", n: 400, below: func(int) []tartest.Member { return []tartest.Member{tartest.File(deep+"f", "")} }, tar: func(n int) []tartest.Member {
			return repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.File(fmt.Sprint(deep, i, "/.wh.x"), "")} })
		}},
	}
}

// extended makes a tar with one file and these headers before it.
func extended(t testing.TB, headers ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, h := range headers {
		b.Write(h)
	}
	b.Write(tartest.Make(t, tartest.File("f", "x")))
	return b.Bytes()
}

func headerShapes() []costShape {
	many := func(kind byte, body func(i int) string) func(testing.TB, int) []byte {
		return func(t testing.TB, n int) []byte {
			t.Helper()
			var all [][]byte
			for i := range n {
				all = append(all, tartest.Extension(kind, body(i)))
			}
			return extended(t, all...)
		}
	}
	one := func(body func(n int) string) func(testing.TB, int) []byte {
		return func(t testing.TB, n int) []byte {
			t.Helper()
			return extended(t, tartest.Extension('x', body(n)))
		}
	}
	records := func(key func(i int) string, value string) func(n int) string {
		return func(n int) string {
			var b strings.Builder
			for i := range n {
				b.WriteString(tartest.Record(key(i), value))
			}
			return b.String()
		}
	}
	numbered := func(i int) string { return fmt.Sprintf("%suser.%05d", tartest.XattrPrefix, i) }
	return []costShape{
		{name: "PAX records", n: 15000, text: one(records(func(i int) string { return fmt.Sprint("k", i) }, "v"))},
		{name: "PAX record again", n: 15000, text: one(records(func(int) string { return "path" }, "f"))},
		{name: "PAX headers", n: 20000, text: many('x', func(int) string { return tartest.Record("k", "v") })},
		{name: "global headers", n: 20000, text: many('g', func(int) string { return tartest.Record("k", "v") })},
		{name: "long names", n: 20000, text: many('L', func(int) string { return "f\x00" })},
		{name: "attributes", n: 2500, text: one(records(numbered, "v"))},
		{name: "one attribute again", n: 5000, text: one(records(func(int) string { return numbered(0) }, "v"))},
		{name: "attributes that Linux does not know", n: 5000, text: one(records(func(i int) string { return fmt.Sprint(tartest.XattrPrefix, "x", i) }, "v"))},
		{name: "attributes of files", n: 2000, tar: func(n int) []tartest.Member {
			return repeat(n, func(i int) []tartest.Member {
				return []tartest.Member{tartest.Xattr(tartest.File(fmt.Sprint(i), ""), "user.k", strings.Repeat("v", 1000))}
			})
		}},
		{name: "attributes of one directory", n: 2000, tar: func(n int) []tartest.Member {
			return repeat(n, func(i int) []tartest.Member {
				return []tartest.Member{tartest.Xattr(tartest.Dir("d"), fmt.Sprint("user.", i), "v")}
			})
		}},
		{name: "attributes of a directory, described again", n: 2000, tar: func(n int) []tartest.Member {
			d := tartest.Dir("d")
			d.PAXRecords = map[string]string{}
			for i := range n {
				d.PAXRecords[numbered(i)] = "v"
			}
			return []tartest.Member{d, d, d, d}
		}},
		{name: "sparse map", n: 4000, text: func(t testing.TB, n int) []byte {
			t.Helper()
			var m strings.Builder
			for i := range n {
				fmt.Fprintf(&m, ",%d,1", i*2)
			}
			var b bytes.Buffer
			b.Write(tartest.Extension('x', tartest.Record("GNU.sparse.size", fmt.Sprint(2*n))+tartest.Record("GNU.sparse.numblocks", fmt.Sprint(n))+tartest.Record("GNU.sparse.map", m.String()[1:])))
			b.Write(tartest.Header('0', int64(n)))
			b.Write(make([]byte, int64(n)+tartest.Padding(int64(n))+2*tartest.BlockSize))
			return b.Bytes()
		}},
		{name: "holes", n: 2000, text: func(t testing.TB, n int) []byte {
			t.Helper()
			var b bytes.Buffer
			for i := range n {
				b.Write(tartest.Extension('x', tartest.Record("path", fmt.Sprint(i))+tartest.Record("GNU.sparse.size", fmt.Sprint(int64(1)<<40))+tartest.Record("GNU.sparse.numblocks", "1")+tartest.Record("GNU.sparse.map", "0,0")))
				b.Write(tartest.Header('0', 0))
			}
			b.Write(make([]byte, 2*tartest.BlockSize))
			return b.Bytes()
		}},
	}
}

func nameShapes() []costShape {
	wide := func(n int) []tartest.Member {
		return repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.File(fmt.Sprint(i), "")} })
	}
	deep := strings.Repeat("d/", 400)
	return []costShape{
		{name: "one directory", n: 10000, tar: wide},
		{name: "many directories", n: 3000, tar: func(n int) []tartest.Member {
			return repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.File(fmt.Sprint(i, "/f"), "")} })
		}},
		{name: "many directories again", n: 2000, tar: func(n int) []tartest.Member {
			one := repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.File(fmt.Sprint(i, "/f"), "")} })
			return append(one, one...)
		}},
		{name: "deep names that differ last", n: 500, tar: func(n int) []tartest.Member {
			return repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.File(fmt.Sprint(deep, i, "/f"), "")} })
		}},
		{name: "deep name again", n: 500, tar: func(n int) []tartest.Member {
			return repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.File(deep+"f", "")} })
		}},
		{name: "deep names that differ first", n: 20, tar: func(n int) []tartest.Member {
			return repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.File(fmt.Sprint(i, "/", deep, "f"), "")} })
		}},
		{name: "through symlinks", n: 1500, tar: func(n int) []tartest.Member {
			chain := repeat(30, func(i int) []tartest.Member {
				return []tartest.Member{tartest.Symlink(fmt.Sprint("l", i), fmt.Sprint("l", i+1))}
			})
			return append(append(chain, tartest.Dir("l30")), repeat(n, func(i int) []tartest.Member {
				return []tartest.Member{tartest.File(fmt.Sprint("l0/a/", i), ""), tartest.File(fmt.Sprint("l0/b/", i), "")}
			})...)
		}},
		{name: "through symlinks below", n: 1500, below: func(int) []tartest.Member {
			chain := repeat(30, func(i int) []tartest.Member {
				return []tartest.Member{tartest.Symlink(fmt.Sprint("l", i), fmt.Sprint("l", i+1))}
			})
			return append(chain, tartest.Dir("l30"))
		}, tar: func(n int) []tartest.Member {
			return repeat(n, func(i int) []tartest.Member {
				return []tartest.Member{tartest.File(fmt.Sprint("l0/a/", i), ""), tartest.File(fmt.Sprint("l0/b/", i), "")}
			})
		}},
		{name: "through a symlink, deep", n: 100, tar: func(n int) []tartest.Member {
			return append([]tartest.Member{tartest.File(deep+"f", ""), tartest.Symlink("s", "d")}, repeat(n, func(i int) []tartest.Member {
				return []tartest.Member{tartest.File(fmt.Sprint("s/", deep[2:], "a/", i), ""), tartest.File(fmt.Sprint("s/", deep[2:], "b/", i), "")}
			})...)
		}},
		{name: "one deep name", n: 1000, tar: func(n int) []tartest.Member { return []tartest.Member{tartest.File(strings.Repeat("d/", n)+"f", "")} }},
		{name: "one deep name, twice", n: 1000, tar: func(n int) []tartest.Member {
			return []tartest.Member{tartest.File(strings.Repeat("d/", n)+"f", ""), tartest.Symlink("s", "d"), tartest.File("s"+strings.Repeat("/d", n-1)+"/g", "")}
		}},
	}
}

func fileShapes() []costShape {
	return []costShape{
		{name: "empty directories", n: 6000, tar: func(n int) []tartest.Member {
			return repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.Dir(fmt.Sprint("d/", i))} })
		}},
		{name: "symlinks", n: 10000, tar: func(n int) []tartest.Member {
			return repeat(n, func(i int) []tartest.Member { return []tartest.Member{tartest.Symlink(fmt.Sprint("d/", i), "x")} })
		}},
		{name: "devices 0:0", n: 5000, tar: func(n int) []tartest.Member {
			return repeat(n, func(i int) []tartest.Member { return []tartest.Member{device0(fmt.Sprint("d/", i))} })
		}},
		{name: "entries that say nothing", n: 20000, tar: func(n int) []tartest.Member {
			return repeat(n, func(int) []tartest.Member { return []tartest.Member{tartest.Dir("./")} })
		}},
		{name: "the root", n: 20000, tar: func(n int) []tartest.Member {
			return repeat(n, func(int) []tartest.Member { return []tartest.Member{tartest.Dir("/")} })
		}},
		{name: "AUFS bookkeeping", n: 20000, tar: func(n int) []tartest.Member {
			return repeat(n, func(int) []tartest.Member { return []tartest.Member{{Header: tar.Header{Name: ".wh..wh.aufs"}}} })
		}},
	}
}

// costWays are the ways a tar is unpacked, and given back.
var costWays = []struct {
	name string
	run  func(t testing.TB, c *costRun)
}{
	{"known", func(t testing.TB, c *costRun) {
		t.Helper()
		c.apply(t, Options{Whiteouts: overlay, Below: c.below.open})
	}},
	{"late", func(t testing.TB, c *costRun) {
		t.Helper()
		c.apply(t, Options{Whiteouts: overlay})
		assert.NilError(t, Settle(context.Background(), c.dir, Options{Whiteouts: overlay, Below: c.below.open}))
	}},
	{"plain", func(t testing.TB, c *costRun) { t.Helper(); c.apply(t, Options{}) }},
}

// costRun is one time that a tar is unpacked.
type costRun struct {
	dir   string
	below *plainBelow
	data  []byte
	fails bool
	log   string
}

func (c *costRun) apply(t testing.TB, o Options) {
	t.Helper()
	w, err := tarlog.Create(c.log)
	assert.NilError(t, err)
	_, err = Apply(context.Background(), c.dir, bytes.NewReader(c.data), o, unpack.Options{Log: w})
	if c.fails {
		assert.Assert(t, err != nil)
		assert.NilError(t, w.Abort())
		return
	}
	assert.NilError(t, err)
	assert.NilError(t, w.Close())
}

// cost is what a way to unpack takes.
type cost struct {
	cpu, replay time.Duration
	alloc, peak uint64
}

// measure unpacks a shape of a size in one way.
func (s *costShape) measure(t testing.TB, way, n int) (c cost, size int) {
	t.Helper()
	tmp, err := os.MkdirTemp("", "layertar-cost")
	assert.NilError(t, err)
	assert.NilError(t, unix.Mount("tmpfs", tmp, "tmpfs", 0, "huge=never")) // a disk's file system may take longer for a name than we do
	defer func() { assert.NilError(t, errors.Join(unix.Unmount(tmp, unix.MNT_DETACH), os.Remove(tmp))) }()
	r := &costRun{dir: filepath.Join(tmp, "layer"), below: &plainBelow{dir: filepath.Join(tmp, "below")}, data: s.data(t, n), fails: s.fails, log: filepath.Join(tmp, "log")}
	tartest.Mkdir(t, r.dir)
	tartest.Mkdir(t, r.below.dir)
	base := r.below.dir
	if costWays[way].name == "plain" {
		base = r.dir
	}
	_, err = Apply(context.Background(), base, bytes.NewReader(tartest.Make(t, s.below(n)...)), Options{}, unpack.Options{})
	assert.NilError(t, err)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := cpuNow(t)
	stop := watchHeap(&c.peak)
	costWays[way].run(t, r)
	c.cpu = cpuNow(t) - start
	stop()
	runtime.ReadMemStats(&after)
	c.alloc = after.TotalAlloc - before.TotalAlloc
	c.peak -= min(c.peak, before.HeapAlloc)
	if !s.fails {
		start = cpuNow(t)
		assert.NilError(t, replay(context.Background(), r.log, r.dir, io.Discard))
		c.replay = cpuNow(t) - start
	}
	return c, len(r.data)
}

func cpuNow(t testing.TB) time.Duration {
	t.Helper()
	var u unix.Rusage
	assert.NilError(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(unix.TimevalToNsec(u.Utime) + unix.TimevalToNsec(u.Stime))
}

// watchHeap notes the largest heap until it is stopped.
func watchHeap(peak *uint64) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			*peak = max(*peak, m.HeapAlloc)
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() { close(done); <-ended }
}

// costGrowth is how many times as large the large tar is, and costFactor how much more than that its cost may grow: one that grows with the
// square of the size grows four times as much, and what is measured on a busy machine is not exact.
const (
	costGrowth = 4
	costFactor = 2.5
)

// TestCost holds that what a tar costs is proportional to its size, whatever is in it: the processor's time to unpack it and to give it
// back, and the memory. Each shape is unpacked in two sizes, in each way, and in short mode in one of the ways. What other work makes dear
// is measured again.
func TestCost(t *testing.T) {
	tartest.NeedRoot(t)
	for i, s := range costShapes() {
		for way := range costWays {
			if testing.Short() && way != i%len(costWays) {
				continue
			}
			t.Run(s.name+"/"+costWays[way].name, func(t *testing.T) {
				var problem string
				for range 3 {
					small, _ := s.measure(t, way, s.n/costGrowth)
					large, _ := s.measure(t, way, s.n)
					if problem = small.grown(&large); problem == "" {
						return
					}
				}
				t.Error(problem)
			})
		}
	}
}

// grown compares the cost of a small tar with that of a larger one, and tells what has grown too much.
func (c *cost) grown(large *cost) string {
	const most = costFactor * costGrowth
	for _, x := range []struct {
		what         string
		small, large float64
		slack        float64 // what may come between
	}{
		{"ms to unpack", c.cpu.Seconds() * 1000, large.cpu.Seconds() * 1000, 20},
		{"ms to give back", c.replay.Seconds() * 1000, large.replay.Seconds() * 1000, 20},
		{"bytes of memory", float64(c.peak), float64(large.peak), 16 << 20},
		{"bytes allocated", float64(c.alloc), float64(large.alloc), 16 << 20},
	} {
		if x.large > most*x.small+x.slack {
			return fmt.Sprintf("%.0f %s, and %.0f for a tar %d times as large", x.small, x.what, x.large, costGrowth)
		}
	}
	return ""
}

// BenchmarkCost shows what entries of each shape cost, in each way: microseconds of the processor's time to unpack one and to give it back,
// bytes of memory at most, and nanoseconds for each byte of the tar.
func BenchmarkCost(b *testing.B) {
	tartest.NeedRoot(b)
	for _, s := range costShapes() {
		for way := range costWays {
			b.Run(s.name+"/"+costWays[way].name, func(b *testing.B) {
				n := costGrowth * s.n
				var sum cost
				size := 0
				for b.Loop() {
					var c cost
					c, size = s.measure(b, way, n)
					sum.cpu, sum.replay, sum.peak = sum.cpu+c.cpu, sum.replay+c.replay, max(sum.peak, c.peak)
				}
				all := float64(n * b.N)
				b.ReportMetric(0, "ns/op") // making the tar is in it
				b.ReportMetric(float64(sum.cpu)/1000/all, "us/entry")
				b.ReportMetric(float64(sum.cpu)/float64(size*b.N), "ns/byte")
				b.ReportMetric(float64(sum.replay)/1000/all, "replay-us/entry")
				b.ReportMetric(float64(sum.peak)/float64(n), "peak-B/entry")
			})
		}
	}
}

// TestBudget holds that a tar cannot lead us through more directories and symlinks than it has entries for, and that layers with symlinks on
// the way are taken as ever.
func TestBudget(t *testing.T) {
	tartest.NeedRoot(t)
	zigzag := func(far, n int) []tartest.Member {
		return append([]tartest.Member{tartest.Symlink("s", strings.Repeat("d/../", far)+"d"), tartest.Dir("d")}, repeat(n, func(i int) []tartest.Member {
			return []tartest.Member{tartest.File(fmt.Sprint("s/a/", i), ""), tartest.File(fmt.Sprint("s/b/", i), "")}
		})...)
	}
	for _, test := range []struct {
		name    string
		members []tartest.Member
		refused bool
	}{
		{"a symlink up and down", zigzag(700, 200), true},
		{"a short symlink", zigzag(1, 2000), false},
		{"deep names", repeat(100, func(i int) []tartest.Member {
			return []tartest.Member{tartest.File(fmt.Sprint(i, "/", strings.Repeat("d/", 1000), "f"), "")}
		}), true},
		{"a deep name", []tartest.Member{tartest.File(strings.Repeat("d/", 4000)+"f", "")}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, o := range []Options{{}, {Whiteouts: overlay}, {Whiteouts: overlay, Below: (&plainBelow{dir: t.TempDir()}).open}} {
				dir := t.TempDir()
				assert.NilError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "")) // a tree of that size is gone at once
				_, err := Apply(t.Context(), dir, bytes.NewReader(tartest.Make(t, test.members...)), o, unpack.Options{})
				assert.NilError(t, unix.Unmount(dir, unix.MNT_DETACH))
				if !test.refused {
					assert.NilError(t, err)
					continue
				}
				assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
				assert.ErrorContains(t, err, "more than")
			}
		})
	}
}

// TestNamesAgree holds that what is unpacked can be given back and packed, and what is packed unpacked, however long the path is that
// symlinks make of short names, and that the rest is refused on both sides.
func TestNamesAgree(t *testing.T) {
	tartest.NeedRoot(t)
	far := strings.Repeat(strings.Repeat("n", 199)+"/", 20)
	const links = 20 // each leads 4000 bytes further down, from the directory that the one before leads to
	var members []tartest.Member
	at := ""
	for range links {
		members = append(members, tartest.Symlink(at+"s", far), tartest.File(at+far+"f", "x"))
		at += "s/"
	}
	members = append(members, tartest.File(at+"end", "x"))
	data := tartest.Make(t, members...)
	assert.Assert(t, bytes.Equal(roundTrip(t, data, none), data))

	dir := t.TempDir()
	_, err := Apply(t.Context(), dir, bytes.NewReader(data), Options{}, unpack.Options{})
	assert.NilError(t, err)
	var out bytes.Buffer
	assert.NilError(t, pack.Changes(t.Context(), &out, dir, tartest.Changes(tartest.Added("/"+strings.Repeat(far, links)+"end")...), pack.Options{}))
	_, err = Apply(t.Context(), t.TempDir(), &out, Options{}, unpack.Options{})
	assert.NilError(t, err)

	long := strings.Repeat(far, tarcodec.MaxName/len(far)) // with what the symlinks add it is too long
	_, err = Apply(t.Context(), dir, bytes.NewReader(tartest.Make(t, tartest.File(at+long+"f", ""))), Options{}, unpack.Options{})
	assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	err = pack.Changes(t.Context(), io.Discard, dir, tartest.Changes(tartest.Added("/"+long+far)...), pack.Options{})
	assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

// TestAttributesAgree holds that attributes which no reader takes in a tar are refused when they are packed.
func TestAttributesAgree(t *testing.T) {
	tartest.NeedRoot(t)
	dir := t.TempDir()
	assert.NilError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	defer func() { assert.NilError(t, unix.Unmount(dir, 0)) }()
	f := filepath.Join(dir, "f")
	assert.NilError(t, os.WriteFile(f, nil, 0o600))
	for i := range 20 {
		assert.NilError(t, unix.Setxattr(f, fmt.Sprint("trusted.", i), bytes.Repeat([]byte("v"), 60000), 0))
	}
	err := pack.Changes(t.Context(), io.Discard, dir, tartest.Changes(tartest.Added("/f")...), pack.Options{})
	assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}
