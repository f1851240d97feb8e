package unpack

import (
	"strata/backend"
	"strata/backend/internal/layertar/tarcodec"
)

// content is the data of the entry that the reader is at. It implements backend.Content.
type content struct {
	in       *tarcodec.Reader
	tee      func([]byte) // sees the data, too; may be nil
	segments []tarcodec.Segment
	done     int64 // bytes of the first
	whole    [1]tarcodec.Segment
}

// start makes c the content of e.
func (c *content) start(in *tarcodec.Reader, e *tarcodec.Entry, tee func([]byte)) {
	c.in, c.tee, c.segments, c.done = in, tee, e.Segments, 0
	if !e.Sparse {
		c.whole[0] = tarcodec.Segment{Length: e.Size}
		c.segments = c.whole[:]
	}
}

// Left implements backend.Content.
func (c *content) Left() int64 { return c.in.Left() }

// Next implements backend.Content.
func (c *content) Next() (backend.Extent, error) {
	for len(c.segments) > 0 && c.done == c.segments[0].Length {
		c.segments, c.done = c.segments[1:], 0
	}
	limit, offset := int64(1), int64(0) // the reader knows best that there is no more
	if len(c.segments) > 0 {
		limit, offset = c.segments[0].Length-c.done, c.segments[0].Offset+c.done
	}
	p, err := c.in.Take(limit)
	if err != nil {
		return backend.Extent{}, err
	}
	c.done += int64(len(p.Data))
	if c.tee != nil {
		c.tee(p.Data)
	}
	return backend.Extent{Offset: offset, Data: p.Data, Block: p.Block}, nil
}
