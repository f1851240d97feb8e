package store

import "strata/backend"

// abilities are the backend's optional interfaces, looked up once. nil means: the store's way.
type abilities struct {
	sealer    backend.Sealer
	placer    backend.Placer
	differ    backend.Differ
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
	a.sealer, _ = backend.As[backend.Sealer](b)
	a.placer, _ = backend.As[backend.Placer](b)
	a.differ, _ = backend.As[backend.Differ](b)
	a.changer, _ = backend.As[backend.Changer](b)
	a.sinker, _ = backend.As[backend.Sinker](b)
	a.meter, _ = backend.As[backend.Meter](b)
	a.limiter, _ = backend.As[backend.Limiter](b)
	a.idMapper, _ = backend.As[backend.IDMapper](b)
	a.cloner, _ = backend.As[backend.Cloner](b)
	a.rebaser, _ = backend.As[backend.Rebaser](b)
	a.activator, _ = backend.As[backend.Activator](b)
	a.syncer, _ = backend.As[backend.Syncer](b)
	a.narrower, _ = backend.As[backend.Narrower](b)
	a.content, _ = backend.As[backend.ContentSyncer](b)
	a.surveyor, _ = backend.As[backend.Surveyor](b)
	a.adopter, _ = backend.As[backend.Adopter](b)
	a.describer, _ = backend.As[backend.Describer](b)
	a.checker, _ = backend.As[backend.Checker](b)
	a.lister, _ = backend.As[backend.Lister](b)
	a.reporter, _ = backend.As[backend.Reporter](b)
	a.closer, _ = backend.As[backend.Closer](b)
	return a
}

// describe says for each ability which code runs.
func (a abilities) describe() []backend.Field {
	compare := choose(a.narrower != nil, "compare what changed", "compare trees")
	return []backend.Field{
		{Name: "files", Value: choose(a.placer != nil, "in place", "in a mount")},
		{Name: "apply", Value: choose(a.sinker != nil, "native", choose(a.placer != nil, "unpack in place", "unpack into a mount"))},
		{Name: "diff", Value: choose(a.differ != nil, "native", compare)},
		{Name: "changes", Value: choose(a.changer != nil, "native", compare)},
		{Name: "narrow", Value: choose(a.narrower != nil, "native", "look at every name")},
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
