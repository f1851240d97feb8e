package plugin

// Limits for files that others write, in bytes: far more than is ever needed, far less than hurts.
const (
	MaxWord   = 4 << 10  // a file that holds one name or digest
	MaxRecord = 64 << 20 // a file of JSON, such as the record of all names of a Docker's images
)
