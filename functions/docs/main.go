// Command docs serves the OpenAPI 3.1 description of every operation and a page that shows it, with
// no asset from another host.
package main

import (
	"embed"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/swaggest/swgui"
	"github.com/swaggest/swgui/v5emb"

	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/wire"
)

// descriptions are one file for each function, kept equal to its code by openapitest.
//
//go:embed openapi/*.json
var descriptions embed.FS

func main() {
	document, err := merge(descriptions)
	if err != nil {
		environ.Exit(err)
	}
	gateway.Serve(routes(document))
}

func routes(document []byte) *wire.API {
	// Paths in the page are relative, so that it works below a stage name as well.
	page := v5emb.NewWithConfig(swgui.Config{Title: "BB API", BasePath: "docs/", InternalBasePath: "/docs/", SwaggerJSON: "../openapi.json"})("", "", "")
	show := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Accept-Encoding") // API Gateway would take compressed text for text
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'")
		if r.URL.Path != "/docs" { // the page itself may change with a deployment
			header.Set("Cache-Control", "public, max-age=3600")
		}
		page.ServeHTTP(w, r)
	})
	a := wire.New()
	a.Handle("GET /docs", show)
	for _, asset := range []string{"swagger-ui.css", "swagger-ui-bundle.js", "swagger-ui-standalone-preset.js"} {
		a.Handle("GET /docs/"+asset, show)
	}
	a.Handle("GET /openapi.json", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Access-Control-Allow-Origin", "*") // it is the same for everybody
		_, _ = w.Write(document)                           // the client has gone
	}))
	return a
}

// merge joins the functions' descriptions. What two of them name alike must be alike.
func merge(files embed.FS) ([]byte, error) {
	entries, err := files.ReadDir("openapi")
	if err != nil {
		return nil, fmt.Errorf("read descriptions: %w", err)
	}
	var whole description
	for i, entry := range entries {
		text, err := files.ReadFile("openapi/" + entry.Name())
		if err != nil {
			return nil, fmt.Errorf("read descriptions: %w", err)
		}
		var part description
		if err := json.Unmarshal(text, &part); err != nil {
			return nil, fmt.Errorf("read %s: %w", entry.Name(), err)
		}
		if i == 0 {
			whole = part
			continue
		}
		if err := join(whole.Paths, part.Paths); err != nil {
			return nil, fmt.Errorf("join %s: %w", entry.Name(), err)
		}
		if err := join(whole.Components.Schemas, part.Components.Schemas); err != nil {
			return nil, fmt.Errorf("join %s: %w", entry.Name(), err)
		}
	}
	whole.Info = map[string]string{
		"title": "BB", "version": "1",
		"description": "API keys, sessions and certificates. Send a key as `Authorization: Bearer ak_…`. Each operation names the permission it needs in `x-required-permissions`.",
	}
	whole.Servers = []map[string]string{{"url": "."}}
	return json.Marshal(whole)
}

// description is an OpenAPI document, as far as it is merged.
type description struct {
	OpenAPI    string                     `json:"openapi"`
	Info       map[string]string          `json:"info"`
	Servers    []map[string]string        `json:"servers,omitempty"`
	Paths      map[string]json.RawMessage `json:"paths"`
	Components struct {
		Schemas         map[string]json.RawMessage `json:"schemas"`
		SecuritySchemes json.RawMessage            `json:"securitySchemes"`
	} `json:"components"`
}

func join(whole, part map[string]json.RawMessage) error {
	for name, value := range part {
		if there, ok := whole[name]; ok && string(there) != string(value) {
			return fmt.Errorf("%s is described in two ways", name)
		}
		whole[name] = value
	}
	return nil
}
