// Package gateway serves a net/http handler to Lambda behind an API Gateway REST API.
//
// API Gateway's proxy events (payload v1) become requests by aws-lambda-go-api-proxy. Around the
// handler, this package gives the request its caller, from the authorizer's scope; refuses changes
// that another site's page asks for with a user's cookie; answers a key with its expiry; lets the one
// configured origin read answers; and writes one log line for each request.
package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/awslabs/aws-lambda-go-api-proxy/core"
	"github.com/awslabs/aws-lambda-go-api-proxy/httpadapter"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/wire"
)

// Request is what API Gateway knows of a request beside HTTP.
type Request struct {
	ID       string // of the request
	SourceIP string // of the connection; no header can change it
	Secure   bool   // the client used https
	URL      string // of the API's own address, without a path of this request; a custom domain has another
}

type requestKey struct{}

// From returns what API Gateway knows of the request, the zero value outside of it.
func From(ctx context.Context) Request {
	r, _ := ctx.Value(requestKey{}).(Request)
	return r
}

// Serve answers Lambda's invocations with h until the process ends. It reads CORS_ORIGIN.
func Serve(h http.Handler) {
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	handler, err := Wrap(h, os.Getenv("CORS_ORIGIN"), log)
	if err != nil {
		environ.Exit(err)
	}
	adapter := httpadapter.New(handler)
	lambda.Start(func(ctx context.Context, event events.APIGatewayProxyRequest) (events.APIGatewayProxyResponse, error) {
		return adapter.ProxyWithContext(ctx, event)
	})
}

// Wrap puts around h what every function needs. corsOrigin is the one web origin that may call with
// cookies; empty for none.
func Wrap(h http.Handler, corsOrigin string, log *slog.Logger) (http.Handler, error) {
	sameSite := http.NewCrossOriginProtection()
	if corsOrigin != "" {
		if err := sameSite.AddTrustedOrigin(corsOrigin); err != nil {
			return nil, fmt.Errorf("CORS_ORIGIN: %w", err)
		}
	}
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Vary", "Origin")
		if origin := r.Header.Get("Origin"); corsOrigin != "" && origin == corsOrigin {
			header.Set("Access-Control-Allow-Origin", origin)
			header.Set("Access-Control-Allow-Credentials", "true")
			header.Set("Access-Control-Expose-Headers", "ETag, Idempotency-Replayed, Retry-After, X-Accepted-Permissions, X-Api-Key-Expires, X-Export-Password")
		}
		if c, ok := access.FromContext(r.Context()); ok && c.Kind == access.APIKey {
			header.Set("X-Api-Key-Expires", c.KeyExpires())
		}
		// A browser sends cookies whoever asks; a token is sent only by who holds it.
		if r.Header.Get("Authorization") == "" {
			if err := sameSite.Check(r); err != nil {
				wire.Fail(w, r, problem.Forbidden.New("A page of another site may not change anything here."))
				return
			}
		}
		h.ServeHTTP(w, r)
	})
	recorded := wire.Record(inner, log, func(ctx context.Context) string { return From(ctx).ID })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r, err := withScope(r)
		if err != nil {
			log.Error("request without a usable scope", "error", err.Error())
			wire.Fail(w, r, err)
			return
		}
		recorded.ServeHTTP(w, r)
	}), nil
}

// withScope gives a request from API Gateway its caller and its circumstances.
func withScope(r *http.Request) (*http.Request, error) {
	event, ok := core.GetAPIGatewayContextFromContext(r.Context())
	if !ok {
		return r, nil // not by way of API Gateway: a test with a caller of its own
	}
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	ctx := context.WithValue(r.Context(), requestKey{}, Request{
		ID: event.RequestID, SourceIP: event.Identity.SourceIP,
		Secure: r.Header.Get("X-Forwarded-Proto") == "https", // API Gateway's own, it replaces a client's
		URL:    "https://" + event.DomainName + "/" + event.Stage,
	})
	if _, authorized := event.Authorizer["principalId"]; authorized {
		caller, err := access.FromScope(event.Authorizer)
		if err != nil {
			return r, fmt.Errorf("read the authorizer's scope: %w", err)
		}
		ctx = access.NewContext(ctx, caller)
	}
	return r.WithContext(ctx), nil
}

// Below is a path without the base path that a custom domain puts before an API's own: API Gateway leaves it in the
// event. Without a custom domain it is not there.
func Below(base, path string) string {
	if rest, ok := strings.CutPrefix(path, base+"/"); ok {
		return "/" + rest
	}
	return path
}
