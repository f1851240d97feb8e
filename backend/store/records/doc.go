// Package records keeps what a store knows of its layers in one directory, a file for each, whose name says where the layer
// is in its life. It knows nothing of backends, nor of layers in memory.
//
//	ID          the layer is ready
//	ID.new      the layer is being made, or is a draft; or the record is about to replace ID
//	ID.part     the layer is being filled
//	ID.gone     the layer was removed, and its data is being deleted
//	*.tmp       text that is being written
//
// A file has one line of JSON and one with the CRC-32C of the first. Whoever writes one says by a Syncer when it is durable;
// the order of writes and renames is such that after a crash at any point ReadAll finds the old record or the new one. Package
// store has the rest of the format, and its type durability says what is synced when.
package records
