package control

import "strata/backend/store"

// What is promised in the comments, held by the compiler.
var (
	_ Store    = (*store.Store)(nil)
	_ Store    = (*Client)(nil)
	_ Settings = (*Client)(nil)
)
