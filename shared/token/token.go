// Package token is the string a client sends: an API key's, a session's or a refresh token.
//
// Its shape is
//
//	kind "_" user "_" id "_" secret checksum        ak_7_c_<33 characters><6 characters>
//
// where user and id are positive numbers in base 62 without leading zeros, secret is 33
// characters of base 62 from the system's random source (196 bits), and checksum is the CRC-32
// (IEEE) of everything before it, 6 characters of base 62. A token is one word of [A-Za-z0-9_].
// User and id say where the record lies, so one read finds it; they are no secret. The checksum
// lets a mistyped or invented token be refused, and a leaked one be recognised, without a database.
package token

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"hash/crc32"
	"log/slog"
	"strings"
)

// Kind is what a token stands for; it is the token's first two letters.
type Kind string

// The kinds there are.
const (
	APIKey  Kind = "ak"
	Session Kind = "st"
	Refresh Kind = "rt"
)

const (
	alphabet      = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	secretLength  = 33
	checksumWidth = 6
	// MaxID bounds ids so that they stay exact in JSON numbers.
	MaxID = 1<<53 - 1
	// maxLength is that of the longest token: two ids of nine digits.
	maxLength = 2 + 1 + 9 + 1 + 9 + 1 + secretLength + checksumWidth
)

// ErrMalformed is the only thing Parse says of a string that is not a token.
var ErrMalformed = errors.New("malformed token")

// Token is a parsed or newly minted token. It prints as [redacted].
type Token struct {
	Kind Kind
	User int64
	ID   int64
	text string
}

// Digest is the SHA-256 of a token's text: what is stored instead of it. The secret has 196 random
// bits, so a plain digest can neither be inverted nor guessed.
type Digest [sha256.Size]byte

// Mint makes a token with a new secret. User and id must be in 1..MaxID.
func Mint(kind Kind, user, id int64) Token {
	b := make([]byte, 0, maxLength)
	b = append(b, kind...)
	b = append(b, '_')
	b = appendNumber(b, user)
	b = append(b, '_')
	b = appendNumber(b, id)
	b = append(b, '_')
	b = appendSecret(b)
	b = appendChecksum(b)
	return Token{Kind: kind, User: user, ID: id, text: string(b)}
}

// Parse reads a token and checks its checksum. Each token has exactly one spelling.
func Parse(text string) (Token, error) {
	if len(text) > maxLength || len(text) < 2+1+1+1+1+1+secretLength+checksumWidth || text[2] != '_' {
		return Token{}, ErrMalformed
	}
	kind := Kind(text[:2])
	if kind != APIKey && kind != Session && kind != Refresh {
		return Token{}, ErrMalformed
	}
	user, rest, ok := cutNumber(text[3:])
	if !ok {
		return Token{}, ErrMalformed
	}
	id, rest, ok := cutNumber(rest)
	if !ok || len(rest) != secretLength+checksumWidth {
		return Token{}, ErrMalformed
	}
	for i := range len(rest) {
		if digit(rest[i]) < 0 {
			return Token{}, ErrMalformed
		}
	}
	body := len(text) - checksumWidth
	if string(appendChecksum(append(make([]byte, 0, maxLength), text[:body]...))[body:]) != text[body:] {
		return Token{}, ErrMalformed
	}
	return Token{Kind: kind, User: user, ID: id, text: text}, nil
}

// Reveal returns the text itself, for the one answer that shows it.
func (t Token) Reveal() string { return t.text }

// Public is the part that names the record and holds nothing secret, such as ak_7_c.
func Public(kind Kind, user, id int64) string {
	return string(appendNumber(append(appendNumber([]byte(string(kind)+"_"), user), '_'), id))
}

// Digest returns what is stored of t.
func (t Token) Digest() Digest { return sha256.Sum256([]byte(t.text)) }

// Matches reports in constant time whether t is the token that stored was made from.
func (t Token) Matches(stored []byte) bool {
	digest := t.Digest()
	return subtle.ConstantTimeCompare(digest[:], stored) == 1
}

// String keeps the token out of logs and errors.
func (Token) String() string { return "[redacted]" }

// GoString keeps the token out of %#v.
func (Token) GoString() string { return "[redacted]" }

// LogValue keeps the token out of slog.
func (Token) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalText keeps the token out of JSON; an answer that shows it calls Reveal.
func (Token) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

func appendNumber(b []byte, n int64) []byte {
	var digits [11]byte
	i := len(digits)
	for {
		i--
		digits[i] = alphabet[n%62]
		if n /= 62; n == 0 {
			return append(b, digits[i:]...)
		}
	}
}

// cutNumber reads a number up to the next underscore. Zero, leading zeros and numbers beyond MaxID
// are refused: a second spelling of the same record would escape whoever searches for the first.
func cutNumber(s string) (n int64, rest string, ok bool) {
	head, rest, found := strings.Cut(s, "_")
	if !found || head == "" || len(head) > 9 || head[0] == '0' {
		return 0, "", false
	}
	for i := range len(head) {
		d := digit(head[i])
		if d < 0 {
			return 0, "", false
		}
		n = n*62 + int64(d)
	}
	return n, rest, n <= MaxID
}

func digit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'A' <= c && c <= 'Z':
		return int(c-'A') + 10
	case 'a' <= c && c <= 'z':
		return int(c-'a') + 36
	}
	return -1
}

// appendSecret draws base-62 digits by rejection, so that each is equally likely.
func appendSecret(b []byte) []byte {
	var random [64]byte
	for n := 0; n < secretLength; {
		rand.Read(random[:]) // never fails: crypto/rand ends the process first
		for _, r := range random {
			if d := r >> 2; d < 62 && n < secretLength {
				b = append(b, alphabet[d])
				n++
			}
		}
	}
	return b
}

func appendChecksum(b []byte) []byte {
	sum := crc32.ChecksumIEEE(b)
	var digits [checksumWidth]byte
	for i := range digits {
		digits[checksumWidth-1-i] = alphabet[sum%62]
		sum /= 62
	}
	return append(b, digits[:]...)
}
