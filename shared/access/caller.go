// Package access is who calls and what they may do.
//
// The authorizer turns a token into a Caller and hands it to the functions as a scope, the flat map
// of strings that API Gateway passes on. A function reads the scope back and asks one question,
// Caller.Allow, before the store is touched.
package access

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Kind is what was authenticated.
type Kind string

// The kinds of caller.
const (
	Session Kind = "session"
	APIKey  Kind = "apikey"
	Device  Kind = "device"
)

// Caller is the principal of a request.
type Caller struct {
	Kind        Kind
	User        int64  // the user it acts for
	ID          int64  // of the session, API key or device
	Name        string // the API key's name or the user's e-mail
	Permissions Permissions
	CreatedAt   time.Time // of a session, when the user authenticated
	ExpiresAt   time.Time
	// Superseded says that an API key's token has been replaced by a newer one, which is in use; it
	// works until its grace ends, and may not make or roll keys any more.
	Superseded bool
}

// Allow answers one need.
func (c Caller) Allow(need Need) bool { return c.Permissions.Allow(need) }

// AllowSome answers whether the caller may do this to any object of the type.
func (c Caller) AllowSome(need Need) bool {
	for _, p := range c.Permissions.List() {
		if p.Type == need.Type && c.Allow(Need{need.Type, need.Action, p.ID}) {
			return true
		}
	}
	return c.Allow(Need{need.Type, need.Action, Any})
}

// Principal names the caller in policies and logs, such as user/7/apikey/12.
func (c Caller) Principal() string {
	b := make([]byte, 0, 48)
	b = strconv.AppendInt(append(b, "user/"...), c.User, 10)
	b = append(append(append(b, '/'), c.Kind...), '/')
	return string(strconv.AppendInt(b, c.ID, 10))
}

// KeyExpires is the value of the X-Api-Key-Expires header: RFC 3339 in UTC, empty for others than API keys.
func (c Caller) KeyExpires() string {
	if c.Kind != APIKey {
		return ""
	}
	return c.ExpiresAt.UTC().Format(time.RFC3339)
}

// Paths are the resources the caller may reach at all, as suffixes of an execute-api ARN after the
// method. What it may do there is for the function to say.
func (c Caller) Paths() []string {
	if c.Kind == Device {
		return []string{"/apiv1/devices/self/*"}
	}
	user := "/apiv1/users/" + strconv.FormatInt(c.User, 10)
	paths := []string{user, user + "/*", "/apiv1/me", "/apiv1/permissions/catalog", "/apiv1/dns-providers/catalog"}
	if c.Kind == APIKey {
		paths = append(paths, "/apiv1/me/*", "/apiv1/devices/self/*", "/git/*")
	}
	return paths
}

// Scope is the caller as API Gateway hands it on: string values, nothing nested. The denied_ values
// and key_expires are read by the gateway response of a refused path (template.yaml, ACCESS_DENIED).
type Scope struct {
	Kind        string `json:"kind"`
	User        string `json:"user_id"`
	ID          string `json:"id"`
	Name        string `json:"name"`
	Permissions string `json:"permissions"`
	CreatedAt   string `json:"created_at"`
	ExpiresAt   string `json:"expires_at"`
	KeyExpires  string `json:"key_expires,omitempty"`
	Superseded  string `json:"superseded,omitempty"`
	DeniedCode  string `json:"denied_code"`
	DeniedWhat  string `json:"denied_what"`
}

// Scope encodes the caller.
func (c Caller) Scope() Scope {
	s := Scope{
		Kind: string(c.Kind), User: strconv.FormatInt(c.User, 10), ID: strconv.FormatInt(c.ID, 10), Name: c.Name,
		Permissions: string(c.Permissions),
		CreatedAt:   strconv.FormatInt(c.CreatedAt.UnixMilli(), 10), ExpiresAt: strconv.FormatInt(c.ExpiresAt.UnixMilli(), 10),
		KeyExpires: c.KeyExpires(),
		DeniedCode: "5022", DeniedWhat: "This path belongs to another user.",
	}
	if c.Superseded {
		s.Superseded = "true"
	}
	switch c.Kind {
	case APIKey:
		s.DeniedCode, s.DeniedWhat = "4003", "API key lacks required permission"
	case Device:
		s.DeniedWhat = "A device may only ask about itself."
	}
	return s
}

// FromScope decodes what Scope encoded, from the authorizer context of a request.
func FromScope(context map[string]any) (Caller, error) {
	text := func(name string) string { s, _ := context[name].(string); return s }
	var errs []error
	number := func(name string) int64 {
		n, err := strconv.ParseInt(text(name), 10, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("scope value %s: %w", name, err))
		}
		return n
	}
	c := Caller{
		Kind: Kind(text("kind")), User: number("user_id"), ID: number("id"), Name: text("name"),
		Permissions: Permissions(text("permissions")),
		CreatedAt:   time.UnixMilli(number("created_at")), ExpiresAt: time.UnixMilli(number("expires_at")),
		Superseded: text("superseded") == "true",
	}
	if c.Kind != Session && c.Kind != APIKey && c.Kind != Device {
		errs = append(errs, fmt.Errorf("scope value kind: unknown kind %q", c.Kind))
	}
	return c, errors.Join(errs...)
}
