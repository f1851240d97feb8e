package device

import (
	"encoding/binary"
	"fmt"
)

// Pair is an entry of a list of names and values (nvlist), as which the kernel takes arguments. The value is a uint64, a string,
// a []Pair, or nil for a name that stands for itself.
type Pair struct {
	Name  string
	Value any
}

// Types of values (data_type_t, include/sys/nvpair.h of OpenZFS).
const (
	typeBoolean = 1
	typeUint64  = 8
	typeString  = 9
	typeList    = 19
)

// packList encodes a list in XDR, RFC 4506: integers big-endian, everything in units of four bytes. The form is that of
// nvs_xdr in module/nvpair/nvpair.c of OpenZFS: four bytes of header, then the list.
func packList(list []Pair) []byte {
	const xdr, littleEndian = 1, 1 // of whoever encodes; nobody looks at it
	return appendList([]byte{xdr, littleEndian, 0, 0}, list)
}

func appendList(b []byte, list []Pair) []byte {
	const version, uniqueNames = 0, 1
	b = appendInts(b, version, uniqueNames)
	for _, p := range list {
		b = appendPair(b, p)
	}
	return appendInts(b, 0, 0) // the end
}

// appendPair appends how long the pair is here and in the kernel's memory, its name, type, number of values, and the value.
func appendPair(b []byte, p Pair) []byte {
	var kind uint32
	count, size := uint32(1), 0
	var value []byte
	switch v := p.Value.(type) {
	case nil:
		kind, count = typeBoolean, 0
	case uint64:
		kind, size = typeUint64, 8
		value = binary.BigEndian.AppendUint64(nil, v)
	case string:
		kind, size = typeString, len(v)+1
		value = appendString(nil, v)
	case []Pair:
		const header = 24 // sizeof (nvlist_t)
		kind, size = typeList, header
		value = appendList(nil, v)
	default:
		panic(fmt.Sprintf("value of type %T", v))
	}
	const header = 16 // sizeof (nvpair_t)
	memory := align8(header+len(p.Name)+1) + align8(size)
	body := appendString(nil, p.Name)
	body = appendInts(body, kind, count)
	body = append(body, value...)
	b = appendInts(b, uint32(8+len(body)), uint32(memory))
	return append(b, body...)
}

func appendInts(b []byte, list ...uint32) []byte {
	for _, n := range list {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	b = append(appendInts(b, uint32(len(s))), s...)
	return append(b, make([]byte, -len(s)&3)...)
}

func align8(n int) int { return (n + 7) &^ 7 }
