package authn

import (
	"encoding/base64"
	"errors"
	"strings"

	"cjj365.cc/bb/shared/devicetoken"
	"cjj365.cc/bb/shared/token"
)

// CookieName is the cookie of a user's session.
const CookieName = "cjj365"

// Carrier is how a credential came with the request.
type Carrier int

// The carriers. A browser sends cookies by itself, so a change asked for with a cookie needs proof
// that the page asking is ours.
const (
	Bearer Carrier = iota
	Cookie
	Basic
)

// Credential is what a request presents.
type Credential struct {
	Token   token.Token
	Carrier Carrier
	Device  devicetoken.Parsed // a device's access token, in place of Token
	JWT     bool               // it is that
}

// ErrNone says that a request presents no credential at all.
var ErrNone = errors.New("no credential")

// Presented finds the credential of a request in its Authorization and Cookie headers. Basic is
// taken only where basic is true, on Git's paths. An Authorization header wins over a cookie even
// if it is useless: whoever sends one means it. More than one is refused, because two readers could
// choose differently.
func Presented(authorization, cookies []string, basic bool) (Credential, error) {
	if len(authorization) > 1 {
		return Credential{}, token.ErrMalformed
	}
	if len(authorization) == 1 && authorization[0] != "" {
		return fromAuthorization(authorization[0], basic)
	}
	value, ok := sessionCookie(cookies)
	if !ok {
		return Credential{}, ErrNone
	}
	t, err := token.Parse(value)
	if err != nil || t.Kind != token.Session {
		return Credential{}, token.ErrMalformed
	}
	return Credential{Token: t, Carrier: Cookie}, nil
}

// PresentedIn finds the credential among all headers of a request, given as huma and others hand them
// out: one call for each value, names in canonical form.
func PresentedIn(eachHeader func(func(name, value string))) (Credential, error) {
	var authorization, cookies []string
	eachHeader(func(name, value string) {
		switch name {
		case "Authorization":
			authorization = append(authorization, value)
		case "Cookie":
			cookies = append(cookies, value)
		}
	})
	return Presented(authorization, cookies, false)
}

func fromAuthorization(header string, basic bool) (Credential, error) {
	scheme, rest, _ := strings.Cut(header, " ")
	rest = strings.Trim(rest, " ")
	switch {
	case strings.EqualFold(scheme, "Bearer") && devicetoken.Looks(rest): // the scheme has no case: RFC 9110 §11.1
		parsed, err := devicetoken.Parse(rest)
		if err != nil {
			return Credential{}, token.ErrMalformed
		}
		return Credential{Device: parsed, JWT: true}, nil
	case strings.EqualFold(scheme, "Bearer"):
		t, err := token.Parse(rest)
		if err != nil || t.Kind == token.Refresh {
			return Credential{}, token.ErrMalformed
		}
		return Credential{Token: t, Carrier: Bearer}, nil
	case strings.EqualFold(scheme, "Basic") && basic:
		t, err := basicPassword(rest)
		if err != nil || t.Kind != token.APIKey {
			return Credential{}, token.ErrMalformed
		}
		return Credential{Token: t, Carrier: Basic}, nil
	}
	return Credential{}, token.ErrMalformed
}

// basicPassword reads the password of RFC 7617 credentials; the user name may be anything.
func basicPassword(encoded string) (token.Token, error) {
	plain, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || strings.ContainsAny(encoded, "\r\n") {
		return token.Token{}, token.ErrMalformed
	}
	_, password, ok := strings.Cut(string(plain), ":")
	if !ok {
		return token.Token{}, token.ErrMalformed
	}
	return token.Parse(password)
}

// sessionCookie picks the session out of Cookie headers. It is lenient on purpose: clients in the
// field send a whole Set-Cookie line back, attributes and all (contract §1). The first wins.
func sessionCookie(headers []string) (string, bool) {
	for _, header := range headers {
		for pair := range strings.SplitSeq(header, ";") {
			name, value, ok := strings.Cut(strings.Trim(pair, " \t"), "=")
			if !ok || name != CookieName {
				continue
			}
			value = strings.Trim(value, " \t")
			if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
				value = value[1 : len(value)-1]
			}
			return value, true
		}
	}
	return "", false
}
