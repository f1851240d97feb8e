package store

import "strata/backend"

// abilities are the backend's optional interfaces, looked up once. nil means: the store's way.
type abilities struct {
	sealer    backend.Sealer
	placer    backend.Placer
	changer   backend.Changer
	sinker    backend.Sinker
	meter     backend.Meter
	limiter   backend.Limiter
	idMapper  backend.IDMapper
	cloner    backend.Cloner
	rebaser   backend.Rebaser
	activator backend.Activator
	syncer    backend.Syncer
	narrower  backend.Narrower
	content   backend.ContentSyncer
	surveyor  backend.Surveyor
	adopter   backend.Adopter
	describer backend.Describer
	checker   backend.Checker
	lister    backend.Lister
	reporter  backend.Reporter
	closer    backend.Closer
}

func findAbilities(b backend.Backend) (a abilities) {
	a.sealer, _ = b.(backend.Sealer)
	a.placer, _ = b.(backend.Placer)
	a.changer, _ = b.(backend.Changer)
	a.sinker, _ = b.(backend.Sinker)
	a.meter, _ = b.(backend.Meter)
	a.limiter, _ = b.(backend.Limiter)
	a.idMapper, _ = b.(backend.IDMapper)
	a.cloner, _ = b.(backend.Cloner)
	a.rebaser, _ = b.(backend.Rebaser)
	a.activator, _ = b.(backend.Activator)
	a.syncer, _ = b.(backend.Syncer)
	a.narrower, _ = b.(backend.Narrower)
	a.content, _ = b.(backend.ContentSyncer)
	a.surveyor, _ = b.(backend.Surveyor)
	a.adopter, _ = b.(backend.Adopter)
	a.describer, _ = b.(backend.Describer)
	a.checker, _ = b.(backend.Checker)
	a.lister, _ = b.(backend.Lister)
	a.reporter, _ = b.(backend.Reporter)
	a.closer, _ = b.(backend.Closer)
	return a
}

// describe says for each ability which code runs. exact says that the store promises exact diffs.
func (a abilities) describe(exact bool) []backend.Field {
	changes := a.ways(true, false)
	diff := changes
	if exact {
		diff = append(a.ways(true, true), changes...)
	}
	return []backend.Field{
		{Name: "files", Value: choose(a.placer != nil, "in place", "in a mount")},
		{Name: "apply", Value: choose(a.sinker != nil, "native", choose(a.placer != nil, "unpack in place", "unpack into a mount"))},
		{Name: "diff", Value: join(diff)},
		{Name: "changes", Value: join(changes)},
		{Name: "usage", Value: choose(a.meter != nil, "native", "walk")},
		{Name: "limit", Value: choose(a.limiter != nil, "native", "not supported")},
		{Name: "id maps", Value: choose(a.idMapper != nil, "native", "change owners")},
		{Name: "clone", Value: choose(a.cloner != nil, "native", "diff and apply")},
		{Name: "rebase", Value: choose(a.rebaser != nil, "native", "not supported")},
		{Name: "activate", Value: choose(a.activator != nil, "native", "not needed")},
		{Name: "seal", Value: choose(a.sealer != nil, "native", "read-only mounts")},
		{Name: "sync of new layers", Value: choose(a.syncer != nil, "native", "whole file system")},
		{Name: "sync of content", Value: choose(a.content != nil, "native", "whole file system")},
		{Name: "list", Value: choose(a.lister != nil, "native", "records only")},
		{Name: "check", Value: choose(a.checker != nil, "native", "records and list")},
		{Name: "survey", Value: choose(a.surveyor != nil, "native", "not supported")},
		{Name: "adopt", Value: choose(a.adopter != nil, "native", "not supported")},
		{Name: "describe", Value: choose(a.describer != nil, "native", "the store's fields only")},
		{Name: "report", Value: choose(a.reporter != nil, "native", "the store's fields only")},
		{Name: "close", Value: choose(a.closer != nil, "native", "not needed")},
	}
}

func choose(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}
