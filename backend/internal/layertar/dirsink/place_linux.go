package dirsink

import (
	"golang.org/x/sys/unix"

	"strata/backend"
)

// hand passes a file, whose directory stays pinned until it is complete, and its data to the writers.
func (a *sink) hand(j *job, c backend.Content) error {
	j.dir.pins.Add(1)
	if j.kind != unix.S_IFREG || c.Left() == 0 {
		a.writers.submit(j)
		return nil
	}
	if c.Left() > smallFile {
		return a.stream(j, nil, c)
	}
	for n := 0; c.Left() > 0; n++ {
		p, err := c.Next()
		if err != nil {
			j.discard()
			j.dir.unpin()
			return err
		}
		if n == len(j.whole) { // many segments
			return a.stream(j, &p, c)
		}
		j.whole[n] = p
	}
	a.writers.submit(j)
	return nil
}

// stream hands over a job and then its data, piece by piece. The writer takes all of it, even if it
// cannot use it any more.
func (a *sink) stream(j *job, first *backend.Extent, c backend.Content) error {
	stream := make(chan backend.Extent, 4)
	defer close(stream)
	j.stream = stream
	a.writers.submit(j)
	if first != nil {
		stream <- *first
	}
	for c.Left() > 0 {
		p, err := c.Next()
		if err != nil {
			return err
		}
		stream <- p
	}
	return nil
}
