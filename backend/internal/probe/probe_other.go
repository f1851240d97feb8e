//go:build !linux

package probe

import "context"

func (p *Prober) try(context.Context, Feature) error { return lacks("needs Linux", nil) }

// Sweep does nothing: there is nothing to sweep.
func (p *Prober) Sweep(context.Context) error { return nil }
