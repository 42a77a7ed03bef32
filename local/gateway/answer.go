package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// An answer is what a function of a Lambda proxy integration returns. Another member makes it malformed.
type answer struct {
	StatusCode        statusCode               `json:"statusCode"`
	Headers           map[string]headerValue   `json:"headers"`
	MultiValueHeaders map[string][]headerValue `json:"multiValueHeaders"`
	Body              string                   `json:"body"`
	IsBase64Encoded   bool                     `json:"isBase64Encoded"`
}

// A statusCode may be given as a number or as its digits.
type statusCode int

func (s *statusCode) UnmarshalJSON(data []byte) error {
	n, err := strconv.Atoi(strings.Trim(string(data), `"`))
	if err != nil || n < 200 || n > 599 {
		return fmt.Errorf("statusCode %s is not a status", data)
	}
	*s = statusCode(n)
	return nil
}

// A headerValue may be given as a string, a number or a boolean.
type headerValue string

func (v *headerValue) UnmarshalJSON(data []byte) error {
	switch data[0] {
	case '"':
		return json.Unmarshal(data, (*string)(v))
	case '{', '[', 'n':
		return fmt.Errorf("header value %s is not a string", data)
	}
	*v = headerValue(data)
	return nil
}

func parseAnswer(data []byte) (answer, error) {
	var a answer
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&a); err != nil {
		return a, err
	}
	if decoder.More() {
		return a, errors.New("something follows it")
	}
	if a.StatusCode == 0 {
		return a, errors.New("it has no statusCode")
	}
	return a, nil
}

// answer sends what the function answered.
func (x *exchange) answer(function string, data []byte) *refusal {
	a, err := parseAnswer(data)
	if err != nil {
		return refuse("INTEGRATION_FAILURE", fmt.Errorf("read the answer of %s: %w", function, err))
	}
	body := []byte(a.Body)
	// What the function encoded is decoded only for a client that asks for a binary type first.
	if a.IsBase64Encoded && x.binary.contain(x.r.Header.Get("Accept")) {
		if body, err = base64.StdEncoding.DecodeString(a.Body); err != nil {
			return refuse("INTEGRATION_FAILURE", fmt.Errorf("read the body from %s: %w", function, err))
		}
	}
	a.copyHeaders(x.w.Header())
	x.write(int(a.StatusCode), body)
	return nil
}

// copyHeaders takes the single values first: a header given in both ways has its multiple ones.
func (a *answer) copyHeaders(header http.Header) {
	for name, value := range a.Headers {
		if name = outgoing(name); name != "" {
			header[name] = []string{string(value)}
		}
	}
	for name, values := range a.MultiValueHeaders {
		if name = outgoing(name); name == "" {
			continue
		}
		header[name] = make([]string, len(values))
		for i, value := range values {
			header[name][i] = string(value)
		}
	}
	if len(header["Content-Type"]) == 0 {
		header["Content-Type"] = []string{"application/json"}
	}
}

// remapped are a function's headers that API Gateway sends under another name, dropped those that
// it does not send.
var (
	remapped = map[string]bool{
		"Authorization":    true,
		"Connection":       true,
		"Content-Length":   true,
		"Content-Md5":      true,
		"Date":             true,
		"Max-Forwards":     true,
		"Server":           true,
		"User-Agent":       true,
		"Www-Authenticate": true,
	}
	dropped = map[string]bool{
		"Expect":             true,
		"Host":               true,
		"Keep-Alive":         true,
		"Proxy-Authenticate": true,
		"Te":                 true,
		"Trailer":            true,
		"Transfer-Encoding":  true,
		"Upgrade":            true,
	}
)

// outgoing is the name under which a function's header reaches the client; empty for not at all.
func outgoing(name string) string {
	name = http.CanonicalHeaderKey(name)
	switch {
	case remapped[name]:
		return "X-Amzn-Remapped-" + name
	case dropped[name]:
		return ""
	}
	return name
}
