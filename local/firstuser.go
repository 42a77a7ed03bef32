package main

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"strings"
)

// A firstUser is who can log in to a new stack.
type firstUser struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

// firstUser yields the first user of this state folder, making up the password once.
func (s *state) firstUser() (firstUser, error) {
	var u firstUser
	err := s.read(firstUserName, &u)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return u, err
	}
	u = firstUser{Email: "admin@example.test", Password: newPassword()}
	return u, s.write(firstUserName, u)
}

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
	others = "_."
)

// newPassword draws 24 characters of 64, again until every kind is among them. None needs quoting in
// a shell, and none begins an option.
func newPassword() string {
	const alphabet = lower + upper + digits + others
	password := make([]byte, 24)
	for {
		rand.Read(password)
		for i, b := range password {
			password[i] = alphabet[b%64]
		}
		p := string(password)
		if strings.ContainsAny(p, lower) && strings.ContainsAny(p, upper) &&
			strings.ContainsAny(p, digits) && strings.ContainsAny(p, others) {
			return p
		}
	}
}
