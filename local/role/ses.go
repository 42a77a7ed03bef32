package role

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"cjj365.cc/bb/local/template"
)

// SES passes messages on to a handler, those that the caller's role allows to be sent from
// their domain.
func (c *Checker) SES(t *template.Template, next http.Handler) http.Handler {
	return c.guard(next, func(_ *http.Request, body []byte) ([]call, error) {
		var message struct{ FromEmailAddress string }
		if err := json.Unmarshal(body, &message); err != nil {
			return nil, err
		}
		if message.FromEmailAddress == "" {
			return nil, errors.New("a message has no sender")
		}
		_, domain, _ := strings.Cut(message.FromEmailAddress, "@")
		return []call{{
			action:   "ses:SendEmail",
			resource: "arn:aws:ses:" + t.Region + ":" + t.Account + ":identity/" + domain,
			values:   map[string][]string{fromAddress: {message.FromEmailAddress}},
		}}, nil
	}, denyREST)
}

// denyREST answers as services do that speak JSON over plain paths.
func denyREST(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Amzn-Errortype", "AccessDeniedException")
	w.WriteHeader(http.StatusForbidden)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": err.Error()})
}
