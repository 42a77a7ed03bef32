// Package uuid makes the random identifiers (RFC 9562, version 4) that AWS gives requests,
// invocations and messages.
package uuid

import (
	"encoding/hex"
	"math/rand/v2"
)

// New makes one. Nothing here relies on its being unguessable, so it costs no system call.
func New() string {
	var b [16]byte
	high, low := rand.Uint64(), rand.Uint64()
	for i := range 8 {
		b[i], b[8+i] = byte(high>>(8*i)), byte(low>>(8*i))
	}
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	var s [36]byte
	hex.Encode(s[0:8], b[0:4])
	hex.Encode(s[9:13], b[4:6])
	hex.Encode(s[14:18], b[6:8])
	hex.Encode(s[19:23], b[8:10])
	hex.Encode(s[24:36], b[10:16])
	s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
	return string(s[:])
}
