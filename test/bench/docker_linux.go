package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"strata/test/e2e/engine"
)

// How often short operations are repeated within one round.
const repeats = 5

// enough is how long that may take before a measure is not repeated any more.
const enough = 15 * time.Second

// repeat repeats a measure.
func repeat(measure func() error) error {
	begin := time.Now()
	for i := range repeats {
		if i > 0 && time.Since(begin) > enough {
			break
		}
		if err := measure(); err != nil {
			return err
		}
	}
	return nil
}

// dockerBench measures what users see.
type dockerBench struct {
	w *workloads
	t *table
}

// benchDocker lets all contenders take turns, image by image.
func benchDocker(ctx context.Context, o options, w *workloads, t *table) (err error) {
	b := &dockerBench{w: w, t: t}
	var all []*contender
	defer func() {
		for _, c := range all {
			err = errors.Join(err, c.stop())
		}
	}()
	for _, k := range kinds(o) {
		c, err := newContender(ctx, k, o)
		if err != nil {
			return err
		}
		all = append(all, c)
	}
	for round := range o.rounds {
		for _, part := range []struct {
			name string
			run  func(context.Context, *contender) error
		}{
			{"debian", b.debian},
			{"many", b.many},
			{"big", b.big},
			{"deep", b.deep},
			{"small", b.small},
			{"copies", func(ctx context.Context, c *contender) error { return b.build(ctx, c, "build, 20 COPY", "COPY f /f%d") }},
			{"runs", func(ctx context.Context, c *contender) error {
				return b.build(ctx, c, "build, 20 RUN", "RUN echo %[1]d > /f%[1]d")
			}},
		} {
			if !has(o.parts, part.name) {
				continue
			}
			for _, i := range turns(round, len(all)) {
				c := all[i]
				progress("round %d of %d: %s: %s", round+1, o.rounds, part.name, c.name)
				if err := part.run(ctx, c); err != nil {
					return fmt.Errorf("%s: %s: %w", c.name, part.name, err)
				}
				if err := c.settle(ctx); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// time measures one operation. What others wrote before is on disk when it begins.
func (b *dockerBench) time(measure string, c *contender, do func() error) error {
	unix.Sync()
	begin := time.Now()
	err := do()
	b.t.add(measure, c.name, time.Since(begin))
	return err
}

func (b *dockerBench) load(ctx context.Context, c *contender, measure, image string) error {
	return b.time(measure, c, func() error { return c.api.load(ctx, b.w.archive(image)) })
}

func (b *dockerBench) removeImage(ctx context.Context, c *contender, measure, image string) error {
	return b.time(measure, c, func() error { return c.api.removeImage(ctx, image) })
}

func (b *dockerBench) debian(ctx context.Context, c *contender) error {
	if err := b.load(ctx, c, "load, Debian root", "deb"); err != nil {
		return err
	}
	if c.stores() {
		if err := b.time("save, Debian root", c, func() error { return c.api.save(ctx, "deb") }); err != nil {
			return err
		}
		if err := b.lifecycle(ctx, c, "create + start + rm, Debian root", "deb"); err != nil {
			return err
		}
	}
	return b.removeImage(ctx, c, "rmi, Debian root", "deb")
}

func (b *dockerBench) big(ctx context.Context, c *contender) error {
	if err := b.load(ctx, c, "load, one big file", "big"); err != nil {
		return err
	}
	if c.stores() {
		if err := b.time("save, one big file", c, func() error { return c.api.save(ctx, "big") }); err != nil {
			return err
		}
	}
	return b.removeImage(ctx, c, "rmi, one big file", "big")
}

// smallChange changes 20 files of many and deletes 10.
const smallChange = `i=0; while [ $i -lt 20 ]; do echo changed >> /many/d0$((10+i))/f0$((10+i))05; i=$((i+1)); done
i=0; while [ $i -lt 10 ]; do rm /many/d0$((30+i))/f0$((30+i))07; i=$((i+1)); done`

// smallChanges is what docker diff says about it: 30 files, their 30 directories, and /many.
const smallChanges = 61

func (b *dockerBench) many(ctx context.Context, c *contender) error {
	if err := b.load(ctx, c, "load, many small files", "many"); err != nil {
		return err
	}
	if c.stores() {
		if err := b.change(ctx, c); err != nil {
			return err
		}
	}
	return b.removeImage(ctx, c, "rmi, many small files", "many")
}

// change measures what can be done with a container that changed a little of much.
func (b *dockerBench) change(ctx context.Context, c *contender) error {
	id, err := c.api.create(ctx, "many", smallChange)
	if err != nil {
		return err
	}
	if err := c.api.startAndWait(ctx, id); err != nil {
		return err
	}
	err = repeat(func() error {
		return b.time("diff, small change to many", c, func() error {
			n, err := c.api.changes(ctx, id)
			if err == nil && n != smallChanges {
				err = fmt.Errorf("docker diff lists %d changes instead of %d", n, smallChanges)
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	err = repeat(func() error {
		err := b.time("commit, small change to many", c, func() error { return c.api.commit(ctx, id, "changed") })
		if err != nil {
			return err
		}
		return c.api.removeImage(ctx, "changed")
	})
	if err != nil {
		return err
	}
	return c.api.remove(ctx, id)
}

// lifecycle measures containers that do nothing.
func (b *dockerBench) lifecycle(ctx context.Context, c *contender, measure, image string) error {
	return repeat(func() error {
		return b.time(measure, c, func() error {
			id, err := c.api.create(ctx, image, "true")
			if err != nil {
				return err
			}
			return errors.Join(c.api.startAndWait(ctx, id), c.api.remove(ctx, id))
		})
	})
}

func (b *dockerBench) deep(ctx context.Context, c *contender) error {
	if err := b.load(ctx, c, "load, 60 layers", "deep"); err != nil {
		return err
	}
	if c.stores() {
		for range repeats {
			var id string
			err := b.time("create, 60 layers", c, func() (err error) {
				id, err = c.api.create(ctx, "deep", "true")
				return err
			})
			if err != nil {
				return err
			}
			if err := c.api.remove(ctx, id); err != nil {
				return err
			}
		}
		if err := b.lifecycle(ctx, c, "create + start + rm, 60 layers", "deep"); err != nil {
			return err
		}
	}
	return b.removeImage(ctx, c, "rmi, 60 layers", "deep")
}

// small measures what is left when there is next to nothing to store.
func (b *dockerBench) small(ctx context.Context, c *contender) error {
	err := repeat(func() error {
		if err := b.load(ctx, c, "load, small image", "busybox"); err != nil {
			return err
		}
		return b.removeImage(ctx, c, "rmi, small image", "busybox")
	})
	if err != nil || !c.stores() {
		return err
	}
	if err := c.api.load(ctx, b.w.archive("busybox")); err != nil {
		return err
	}
	err = repeat(func() error {
		return b.time("create + rm, small image", c, func() error {
			id, err := c.api.create(ctx, "busybox", "true")
			if err != nil {
				return err
			}
			return c.api.remove(ctx, id)
		})
	})
	if err != nil {
		return err
	}
	if err := b.lifecycle(ctx, c, "create + start + rm, small image", "busybox"); err != nil {
		return err
	}
	return c.api.removeImage(ctx, "busybox")
}

// build measures the classic builder, whose every step is a layer that is diffed and applied.
func (b *dockerBench) build(ctx context.Context, c *contender, name, step string) error {
	if !c.stores() {
		return nil
	}
	if err := c.api.load(ctx, b.w.archive("busybox")); err != nil {
		return err
	}
	var lines []string
	for i := range 20 {
		lines = append(lines, fmt.Sprintf(step, i))
	}
	buildContext, err := contextTar("FROM busybox\n" + strings.Join(lines, "\n") + "\n")
	if err != nil {
		return err
	}
	if err := b.time(name, c, func() error { return c.api.build(ctx, "built", buildContext) }); err != nil {
		return err
	}
	if err := c.api.removeImage(ctx, "built"); err != nil {
		return err
	}
	return c.api.removeImage(ctx, "busybox")
}

// contextTar returns a build context with this Dockerfile and a small file called f.
func contextTar(dockerfile string) (string, error) {
	var s strings.Builder
	tw := tar.NewWriter(&s)
	err := errors.Join(
		engine.AddFile(tw, "Dockerfile", 0o644, []byte(dockerfile)),
		engine.AddFile(tw, "f", 0o644, []byte("content\n")), tw.Close())
	return s.String(), err
}
