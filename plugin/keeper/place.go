package keeper

import (
	"fmt"

	"strata/backend/store"
	"strata/plugin/config"
)

// Place tells where a store lies, as the process sees it and as its users see it.
type Place struct {
	Root     string // the store's directory; its parent must exist
	HostRoot string // what users call that
	MountDir string // where layers are mounted; "" is the store's default
	// DockerRoot is Docker's data root. "" is the directory that Init.Home lies in.
	DockerRoot string
	Doubt      string // why HostRoot may not be Root; "" for no doubt
	// Here translates a directory of the users'. ErrInvalidArgument if it cannot be reached. nil
	// leaves it as it is.
	Here func(dir string) (string, error)
	// HostText translates the paths in a text for users. nil leaves them as they are.
	HostText func(text string) string
	// Unseen is store.Config.Unseen.
	Unseen func(dir string) error
}

// atRest is the place of a store that no process has open.
func atRest(root string) Place { return Place{Root: root, HostRoot: root} }

func (p Place) hostText(text string) string {
	if p.HostText == nil {
		return text
	}
	return p.HostText(text)
}

// here translates directories of the users'.
func (p Place) here(dirs []string) ([]string, error) {
	if p.Here == nil {
		return dirs, nil
	}
	var all []string
	for _, dir := range dirs {
		here, err := p.Here(dir)
		if err != nil {
			return nil, err
		}
		all = append(all, here)
	}
	return all, nil
}

// storeConfig translates settings into what the store wants to know.
func storeConfig(s *config.Settings, p Place) (c store.Config, err error) {
	c = store.Config{
		Root: p.Root, MountDir: p.MountDir, Backend: s.Backend, Sync: s.Sync, Unseen: p.Unseen, New: s.OpenBackend,
	}
	c.ExactDiffs, c.ExactDiffsSet = s.ExactDiffsWanted()
	if c.Stores, err = p.here(s.Stores); err != nil {
		return c, fmt.Errorf("option stores: %w", err)
	}
	return c, nil
}
