package layertar

// cursor says where in a file the next data goes.
type cursor struct {
	segments []segment
	done     int64 // bytes of the first
}

func (c *cursor) next() (offset, limit int64) {
	for c.done == c.segments[0].length {
		c.segments, c.done = c.segments[1:], 0
	}
	return c.segments[0].offset + c.done, c.segments[0].length - c.done
}

// hand passes a file, whose directory stays pinned until it is complete, and its data to the
// writers. tee, if it is not nil, sees the data too.
func (a *applier) hand(j *job, e *entry, tee func([]byte)) error {
	j.dir.pins.Add(1)
	if e.kind != kindFile || a.in.left() == 0 {
		a.writers.submit(j)
		return nil
	}
	to := &cursor{segments: e.segments}
	if !e.sparse {
		to.segments = []segment{{0, e.size}}
	}
	if a.in.left() > smallFile {
		return a.stream(j, nil, to, tee)
	}
	for n := 0; a.in.left() > 0; n++ {
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
	for a.in.left() > 0 {
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
	p, err := a.in.take(limit)
	if err != nil {
		return part{}, err
	}
	to.done += int64(len(p.data))
	if tee != nil {
		tee(p.data)
	}
	return part{p, offset}, nil
}
