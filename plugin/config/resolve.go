package config

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// Setting is a setting with the value that is in force.
type Setting struct {
	Option
	Value  string `json:"value"`
	Source string `json:"source"`         // where the value came from: the name of a Source, or "default"
	Next   *Next  `json:"next,omitempty"` // nil if the next start changes nothing
}

// Next is what a setting will be when the process is started again.
type Next struct {
	Value  string `json:"value"`
	Source string `json:"source"` // as of Setting
}

// Settings are the values in force.
type Settings struct {
	Core
	// BackendConfig is what the chosen backend's Config returned, with all options applied.
	BackendConfig any
	driver        backend.Driver
	list          []Setting
}

// OpenBackend makes the chosen backend with its options.
func (s *Settings) OpenBackend(ctx context.Context, env backend.Env) (backend.Backend, error) {
	return s.driver.Open(ctx, env, s.BackendConfig)
}

// List tells for each setting of Core and of the chosen backend its value and where it came from.
func (s *Settings) List() []Setting { return slices.Clone(s.list) }

// Before is List, and tells of each setting what later, the settings of the next start, will make of it.
func (s *Settings) Before(later *Settings) []Setting {
	list := s.List()
	for i, is := range list {
		for _, will := range later.list {
			if will.Key == is.Key && will.Value != is.Value {
				list[i].Next = &Next{Value: will.Value, Source: will.Source}
			}
		}
	}
	return list
}

// ExactDiffsWanted says whether a new store shall keep exact diffs, and whether the user asked for
// that explicitly, one way or the other.
func (s *Settings) ExactDiffsWanted() (exact, explicit bool) {
	return s.ExactDiffs != "false", s.ExactDiffs != "auto"
}

// Resolve applies the sources to the defaults, later ones over earlier ones. All that is wrong is
// reported, not only the first.
func (t *Table) Resolve(sources ...Source) (*Settings, error) {
	chosen := map[string]pick{}
	var errs []error
	for _, src := range sources {
		errs = append(errs, t.collect(src, chosen)...)
	}
	s := &Settings{}
	fill(&s.Core)
	if len(t.backends) > 0 {
		s.Backend = t.backends[0].Name
	}
	if p, ok := chosen["backend"]; ok {
		s.Backend = p.Value
	}
	for _, b := range t.backends {
		if b.Name == s.Backend {
			s.driver, s.BackendConfig = b, b.Config()
		}
	}
	errs = append(errs, t.apply(s, chosen)...)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if err := s.checkPaths(); err != nil {
		return nil, err
	}
	if c, ok := s.BackendConfig.(Checker); ok {
		return s, c.Check()
	}
	return s, nil
}

// pick is the assignment that won, and the name of its source.
type pick struct {
	Assignment
	source string
}

// collect enters a source's assignments into chosen and returns what is wrong with them.
func (t *Table) collect(src Source, chosen map[string]pick) []error {
	var errs []error
	own := map[string]Assignment{}
	for _, a := range src.Assignments {
		o, err := t.Lookup(a.Key)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.Origin, err))
			continue
		}
		a.Key = o.Key
		if err := o.fits(a, src.Name); err != nil {
			errs = append(errs, err)
			continue
		}
		if before, ok := own[o.Key]; ok && !before.same(a) {
			errs = append(errs, fmt.Errorf("option %s is %q in %s and %q in %s, which contradicts it: %w",
				o.Key, before.text(), before.Origin, a.text(), a.Origin, errdefs.ErrInvalidArgument))
		}
		own[o.Key] = a
		chosen[o.Key] = pick{a, src.Name}
	}
	return errs
}

// fits checks a value against the values that are allowed, and the source against Place.
func (o Option) fits(a Assignment, source string) error {
	if o.Change == Place && !slices.Contains([]string{SourceEnv, SourceFlags, SourceStore}, source) {
		return fmt.Errorf("option %s cannot be set by %s; it can be changed so: %s: %w", o.Key, a.Origin, o.Change.Advice(), errdefs.ErrInvalidArgument)
	}
	if o.Values != nil && !slices.Contains(o.Values, a.text()) {
		return fmt.Errorf("option %s: %s has %q; allowed are %s: %w", o.Key, a.Origin, a.text(), strings.Join(o.Values, ", "), errdefs.ErrInvalidArgument)
	}
	return nil
}

func (a Assignment) text() string {
	if a.Items != nil {
		return strings.Join(a.Items, ",")
	}
	return a.Value
}

func (a Assignment) same(b Assignment) bool { return a.text() == b.text() }

// apply writes the chosen values into the structs and lists them.
func (t *Table) apply(s *Settings, chosen map[string]pick) []error {
	var errs []error
	for _, o := range t.options {
		p, set := chosen[o.Key]
		if o.Backend != "" && o.Backend != s.Backend {
			if set {
				errs = append(errs, fmt.Errorf("option %s of %s belongs to backend %s, and the backend in use is %s: %w", o.Key, p.Origin, o.Backend, s.Backend, errdefs.ErrInvalidArgument))
			}
			continue
		}
		v := s.field(o)
		row := Setting{Option: o, Source: SourceDefault}
		if set {
			row.Source = p.source
			if err := p.into(v); err != nil {
				errs = append(errs, fmt.Errorf("option %s of %s: %w: %w", o.Key, p.Origin, err, errdefs.ErrInvalidArgument))
				continue
			}
		}
		row.Value = format(v)
		s.list = append(s.list, row)
	}
	return errs
}

func (a Assignment) into(v reflect.Value) error {
	if a.Items != nil {
		return assignList(v, a.Items)
	}
	return assign(v, a.Value)
}

// field finds the struct field of an option.
func (s *Settings) field(o Option) reflect.Value {
	target, name := reflect.ValueOf(&s.Core).Elem(), o.Key
	if o.Backend != "" {
		target, name = reflect.ValueOf(s.BackendConfig).Elem(), strings.TrimPrefix(o.Key, o.Backend+".")
	}
	for i := range target.NumField() {
		if target.Type().Field(i).Tag.Get("option") == name {
			return target.Field(i)
		}
	}
	panic("option " + o.Key + " has no field")
}

// WithLive returns s with the values of next for settings that change at once, which their tags
// say. s itself stays as it is.
func (s *Settings) WithLive(next *Settings) *Settings {
	mixed := *s
	if v := reflect.ValueOf(s.BackendConfig); v.Kind() == reflect.Pointer {
		fresh := reflect.New(v.Type().Elem())
		fresh.Elem().Set(v.Elem())
		mixed.BackendConfig = fresh.Interface()
	}
	mixed.list = slices.Clone(s.list)
	for i, was := range mixed.list {
		for _, is := range next.list {
			if is.Key == was.Key && was.Change == Live {
				mixed.list[i] = is
				mixed.field(is.Option).Set(next.field(is.Option))
			}
		}
	}
	return &mixed
}
