package role

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"cjj365.cc/bb/local/template"
)

// SES passes messages on to a handler, those that the caller's role allows to be sent from
// their domain.
func (c *Checker) SES(t *template.Template, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCallBytes))
		var message struct{ FromEmailAddress string }
		if err == nil {
			err = json.Unmarshal(body, &message)
		}
		if err == nil && message.FromEmailAddress == "" {
			err = errors.New("a message has no sender")
		}
		if err == nil {
			_, domain, _ := strings.Cut(message.FromEmailAddress, "@")
			err = c.check(accessKeyID(r), []call{{action: "ses:SendEmail", resource: "arn:aws:ses:" + t.Region + ":" + t.Account + ":identity/" + domain, from: message.FromEmailAddress}})
		}
		if err != nil {
			w.Header().Set("X-Amzn-Errortype", "AccessDeniedException")
			w.WriteHeader(http.StatusForbidden)
			_ = json.NewEncoder(w).Encode(map[string]string{"message": err.Error()})
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}
