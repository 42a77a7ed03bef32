package dns

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// A record is a TXT record: a canonical name and a value of one string.
type record struct{ name, value string }

// maxRecordBytes is far more than a name and a value take.
const maxRecordBytes = 4096

// readRecord reads the body of a request in httpreq's default mode.
func readRecord(body []byte) (record, error) {
	var r struct {
		FQDN  string `json:"fqdn"`
		Value string `json:"value"`
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return record{}, errors.New("send fqdn and value in a JSON object")
	}
	if _, ok := dns.IsDomainName(r.FQDN); !ok || !strings.HasSuffix(r.FQDN, ".") || r.FQDN == "." || strings.ContainsAny(r.FQDN, "\\\"; \t\r\n") {
		return record{}, errors.New("fqdn must be a name that ends with a dot")
	}
	if r.Value == "" || len(r.Value) > 255 {
		return record{}, errors.New("value must have 1 to 255 bytes")
	}
	return record{canonical(r.FQDN), r.Value}, nil
}

// httpreq serves POST /present and /cleanup, as lego's provider of that name asks.
type httpreq struct {
	url            string
	names          *challtestsrv
	knot           *Authority
	user, password string
	server         *http.Server
}

func startHTTPReq(o Options, names *challtestsrv, knot *Authority) (*httpreq, error) {
	listener, err := net.Listen("tcp", address(o.Ports.HTTPReq))
	if err != nil {
		return nil, fmt.Errorf("listen for httpreq: %w", err)
	}
	h := &httpreq{url: "http://" + listener.Addr().String(), names: names, knot: knot, user: o.User, password: o.Password}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /present", h.handle(names.set))
	mux.HandleFunc("POST /cleanup", h.handle(names.remove))
	h.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go h.server.Serve(listener)
	return h, nil
}

func (h *httpreq) stop() { _ = h.server.Close() }

func (h *httpreq) handle(change func(context.Context, record) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !h.allowed(r) {
			w.Header().Set("WWW-Authenticate", `Basic realm="httpreq"`)
			http.Error(w, "wrong user or password", http.StatusUnauthorized)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRecordBytes))
		if err != nil {
			http.Error(w, "the body is too long", http.StatusRequestEntityTooLarge)
			return
		}
		txt, err := readRecord(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if h.knot.holds(txt.name) {
			http.Error(w, txt.name+" is in a zone of the DNS server: send it a dynamic update", http.StatusUnprocessableEntity)
			return
		}
		if err := change(r.Context(), txt); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusOK)
	}
}

func (h *httpreq) allowed(r *http.Request) bool {
	if h.user == "" && h.password == "" {
		return true
	}
	user, password, _ := r.BasicAuth()
	same := subtle.ConstantTimeCompare([]byte(user), []byte(h.user)) & subtle.ConstantTimeCompare([]byte(password), []byte(h.password))
	return same == 1
}
