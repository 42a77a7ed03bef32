// Package user is the people who own things: their accounts, passwords and verification codes.
//
// The rules for names, passwords and countries are the contract's (§2.2). Passwords are kept as
// argon2id (RFC 9106) in PHC form. A verification code is kept the same way, because six digits are
// soon guessed from a plain digest.
package user

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"net/mail"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/alexedwards/argon2id"

	"cjj365.cc/bb/shared/problem"
)

// State is whether an account may be used.
type State string

// The states that this system gives an account.
const (
	Active   State = "ACTIVE"
	Inactive State = "INACTIVE" // registered, its e-mail not verified
)

// User is one account.
type User struct {
	ID           int64
	Email        string // normalized
	Name         string
	Country      string
	Roles        []string
	State        State
	PasswordHash string
	Revision     int64 // counts logins and password changes; the condition of each
	CreatedAt    time.Time
}

// argon2id with 19 MiB, two passes and one lane: OWASP's second recommendation, about 30 ms of one
// core. Lambda gives few cores, so more memory buys less than it costs.
var argon = &argon2id.Params{Memory: 19 * 1024, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// Hash is the PHC form of a password or code.
func Hash(secret string) (string, error) {
	h, err := argon2id.CreateHash(secret, argon)
	if err != nil {
		return "", fmt.Errorf("hash a password: %w", err)
	}
	return h, nil
}

// nobody is a hash that no password has: comparing with it takes as long as with a real one.
const nobody = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// Verify reports whether secret has the hash. An empty hash, of an account that does not exist, is
// refused after the same work.
func Verify(secret, hash string) bool {
	if hash == "" {
		hash = nobody
	}
	ok, err := argon2id.ComparePasswordAndHash(secret, hash)
	return ok && err == nil
}

const maxEmail = 254 // RFC 5321 §4.5.3.1.3, less the brackets

// NormalizeEmail trims and lower-cases an address and checks that it is one.
func NormalizeEmail(email string) (string, error) {
	email = strings.ToLower(strings.TrimSpace(email))
	address, err := mail.ParseAddress(email)
	if err != nil || address.Address != email || len(email) > maxEmail || !emailShape.MatchString(email) {
		return "", problem.InvalidArgument.New("email must be an address such as ann@example.org.").With("field", "email")
	}
	return email, nil
}

// emailShape keeps quoted local parts, comments and control characters out: such addresses are
// valid, unused, and a danger to whoever prints them.
var emailShape = regexp.MustCompile(`^[a-z0-9.!#$%&'*+/=?^_{|}~-]+@[a-z0-9-]+(\.[a-z0-9-]+)+$`)

var (
	nameShape = regexp.MustCompile(`^[A-Za-z0-9._-]{3,64}$`)
	// Names of this shape are given to who chooses none.
	givenName = regexp.MustCompile(`(?i)^user-[0-9]+$`)
)

// CheckName checks the form of a user's name.
func CheckName(name string) error {
	if !nameShape.MatchString(name) || givenName.MatchString(name) {
		return problem.InvalidArgument.New("name must be 3 to 64 characters of A-Z, a-z, 0-9, dot, underscore and hyphen, and not user-<number>.")
	}
	return nil
}

// maxPassword bounds what is hashed.
const maxPassword = 256

// CheckPassword checks a new password: 12 characters with an upper-case letter, a lower-case letter,
// a digit and another character.
func CheckPassword(password string) error {
	var upper, lower, digit, other bool
	for _, r := range password {
		switch {
		case unicode.IsUpper(r):
			upper = true
		case unicode.IsLower(r):
			lower = true
		case unicode.IsDigit(r):
			digit = true
		default:
			other = true
		}
	}
	if utf8.RuneCountInString(password) < 12 || len(password) > maxPassword || !upper || !lower || !digit || !other {
		return problem.InvalidArgument.New("password must have 12 to %d characters with an upper-case letter, a lower-case letter, a digit and another character.", maxPassword)
	}
	return nil
}

var countryShape = regexp.MustCompile(`^[A-Z]{2}$`)

// NormalizeCountry gives the two capital letters of a country; empty means US.
func NormalizeCountry(country string) (string, error) {
	if country == "" {
		return "US", nil
	}
	country = strings.ToUpper(country)
	if !countryShape.MatchString(country) {
		return "", problem.InvalidArgument.New("country_of_residence must be two letters, such as DE.")
	}
	return country, nil
}

// Purpose is what a verification code allows, as it is named in the table (contract §2.2).
type Purpose string

// The purposes.
const (
	Activate      Purpose = "activate-user"
	ResetPassword Purpose = "reset-password"
)

// Bounds of a verification code (contract §2.9).
const (
	CodeLifetime = 15 * time.Minute
	CodeAttempts = 5
)

// NewCode draws six digits.
func NewCode() (string, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(1_000_000))
	if err != nil {
		return "", fmt.Errorf("draw a verification code: %w", err)
	}
	return fmt.Sprintf("%06d", n), nil
}
