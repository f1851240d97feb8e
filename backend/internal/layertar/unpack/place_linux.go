package unpack

import "strata/backend/internal/layertar/tarcodec"

// cursor says where in a file the next data goes.
type cursor struct {
	segments []tarcodec.Segment
	done     int64 // bytes of the first
}

func (c *cursor) next() (offset, limit int64) {
	for c.done == c.segments[0].Length {
		c.segments, c.done = c.segments[1:], 0
	}
	return c.segments[0].Offset + c.done, c.segments[0].Length - c.done
}

// hand passes a file, whose directory stays pinned until it is complete, and its data to the
// writers. tee, if it is not nil, sees the data too.
func (a *applier) hand(j *job, e *tarcodec.Entry, tee func([]byte)) error {
	j.dir.pins.Add(1)
	if e.Kind != tarcodec.KindFile || a.in.Left() == 0 {
		a.writers.submit(j)
		return nil
	}
	to := &cursor{segments: e.Segments}
	if !e.Sparse {
		to.segments = []tarcodec.Segment{{Offset: 0, Length: e.Size}}
	}
	if a.in.Left() > smallFile {
		return a.stream(j, nil, to, tee)
	}
	for n := 0; a.in.Left() > 0; n++ {
		p, err := a.part(to, tee)
		if err != nil {
			j.discard()
			j.dir.unpin()
			return err
		}
		if n == len(j.whole) { // many segments
			return a.stream(j, &p, to, tee)
		}
		j.whole[n] = p
	}
	a.writers.submit(j)
	return nil
}

// stream hands over a job and then its data, piece by piece. The writer takes all of it, even if
// it cannot use it any more.
func (a *applier) stream(j *job, first *part, to *cursor, tee func([]byte)) error {
	stream := make(chan part, 4)
	defer close(stream)
	j.stream = stream
	a.writers.submit(j)
	if first != nil {
		stream <- *first
	}
	for a.in.Left() > 0 {
		p, err := a.part(to, tee)
		if err != nil {
			return err
		}
		stream <- p
	}
	return nil
}

func (a *applier) part(to *cursor, tee func([]byte)) (part, error) {
	offset, limit := to.next()
	p, err := a.in.Take(limit)
	if err != nil {
		return part{}, err
	}
	to.done += int64(len(p.Data))
	if tee != nil {
		tee(p.Data)
	}
	return part{p, offset}, nil
}
