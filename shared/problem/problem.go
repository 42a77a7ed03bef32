// Package problem is the ways a request fails: each with its HTTP status, code and key, in one table.
//
// A domain package returns problem.NotFound.New("there is no API key %d", id); wire answers it as the
// contract's error envelope. An error that is no problem is internal: it is logged whole and
// answered without detail.
package problem

import (
	"fmt"
	"time"
)

// Kind is one row of the table. It is an error, so that errors.Is(err, problem.NotFound) asks for it.
type Kind struct {
	Status int    // HTTP status
	Code   int    // error.code of the envelope
	Key    string // error.key of the envelope
}

// The table. Code 5000 stands for several kinds; status and key tell them apart.
var (
	InvalidArgument  = &Kind{400, 5000, "INVALID_ARGUMENT"}
	MissingQuery     = &Kind{400, 5005, "MISSING_QUERY_PARAM"}
	MissingHeader    = &Kind{400, 5006, "MISSING_HEADER"}
	MissingBody      = &Kind{400, 5007, "MISSING_BODY"}
	MissingField     = &Kind{400, 5008, "MISSING_FIELD"}
	TypeConvert      = &Kind{400, 5009, "TYPE_CONVERT_FAILED"}
	JSONParse        = &Kind{400, 5021, "JSON_PARSE_ERROR"}
	Unauthorized     = &Kind{401, 401, "UNAUTHORIZED"}
	NotLogin         = &Kind{401, 5104, "NOT_LOGIN"}
	WrongCredentials = &Kind{401, 5018, "UNAUTHORIZED"}
	TokenRotated     = &Kind{401, 10003, "refresh_token_rotated"}
	LacksPermission  = &Kind{403, 4003, "FORBIDDEN"}
	Forbidden        = &Kind{403, 5022, "FORBIDDEN"}
	ExportForbidden  = &Kind{403, 40301, "EXPORT_FORBIDDEN"}
	NotFound         = &Kind{404, 4001, "NOT_FOUND"}
	MethodNotAllowed = &Kind{405, 5000, "METHOD_NOT_ALLOWED"}
	NotAcceptable    = &Kind{406, 5000, "NOT_ACCEPTABLE"}
	CursorExpired    = &Kind{409, 40901, "CURSOR_EXPIRED"}
	WrapPending      = &Kind{409, 40902, "WRAP_PENDING"}
	NotIssued        = &Kind{409, 40903, "NOT_ISSUED"}
	AlreadyExists    = &Kind{409, 40904, "ALREADY_EXISTS"}
	Conflict         = &Kind{409, 40905, "CONFLICT"}
	IdempotencyReuse = &Kind{409, 40906, "IDEMPOTENCY_KEY_REUSED"}
	TooLarge         = &Kind{413, 5000, "PAYLOAD_TOO_LARGE"}
	UnsupportedMedia = &Kind{415, 5000, "UNSUPPORTED_MEDIA_TYPE"}
	RateLimited      = &Kind{429, 5013, "RATE_LIMITED"}
	Internal         = &Kind{500, 5000, "INTERNAL"}
	Unavailable      = &Kind{503, 5000, "UNAVAILABLE"}
)

// NotAnError is the code of an answer that has the shape of an error and HTTP status 200.
const NotAnError = 999999

func (k *Kind) Error() string { return k.Key }

// New makes a problem of this kind. The sentence is shown to the caller: it says what to do and
// holds nothing secret.
func (k *Kind) New(format string, args ...any) *Error {
	return &Error{Kind: k, What: fmt.Sprintf(format, args...)}
}

// Error is one failure as the caller will see it.
type Error struct {
	*Kind
	What       string
	Params     map[string]any // error.params; nil is an empty object
	RetryAfter time.Duration  // rounded up to seconds in Retry-After; 0 for none
	Required   string         // the permission that was missing, for X-Accepted-Permissions
	Cause      error          // for the log only; may be nil
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Key + ": " + e.What + " (" + e.Cause.Error() + ")"
	}
	return e.Key + ": " + e.What
}

// Unwrap lets errors.Is find the kind and the cause.
func (e *Error) Unwrap() []error { return []error{e.Kind, e.Cause} }

// With adds one entry to error.params.
func (e *Error) With(name string, value any) *Error {
	if e.Params == nil {
		e.Params = map[string]any{}
	}
	e.Params[name] = value
	return e
}

// Limited is the answer to too many tries; wait is how long until the next one is let through.
func Limited(wait time.Duration) *Error {
	e := RateLimited.New("Too many tries. Wait %d seconds and try again.", Seconds(wait))
	e.RetryAfter = wait
	return e.With("retry_after", Seconds(wait))
}

// Lacking is the refusal of a caller without the permission named by required, such as certs.write.
func Lacking(required string) *Error {
	e := LacksPermission.New("API key lacks required permission")
	e.Required = required
	return e.With("required", required)
}

// Seconds rounds d up to whole seconds, at least one.
func Seconds(d time.Duration) int {
	return max(1, int((d+time.Second-1)/time.Second))
}
