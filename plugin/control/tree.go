package control

import (
	"slices"
	"strings"

	"strata/backend/store"
)

// Node is a layer with the layers that stand on it, sorted by name.
type Node struct {
	store.Info
	On []*Node `json:"on,omitempty"`
}

// Tree arranges layers by their parents and returns those that stand on nothing in the list,
// sorted by name.
func Tree(list []store.Info) []*Node {
	nodes := make(map[string]*Node, len(list))
	for _, l := range list {
		nodes[l.Name] = &Node{Info: l}
	}
	var roots []*Node
	for _, n := range nodes {
		if p, ok := nodes[n.Parent]; ok && p != n {
			p.On = append(p.On, n)
		} else {
			roots = append(roots, n)
		}
	}
	byName := func(a, b *Node) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(roots, byName)
	for _, n := range nodes {
		slices.SortFunc(n.On, byName)
	}
	return roots
}
