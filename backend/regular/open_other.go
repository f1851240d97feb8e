//go:build !unix

package regular

// Elsewhere there are neither fifos to wait for nor links to refuse in this way; the checks of open stay.
const noWait, noFollow = 0, 0
