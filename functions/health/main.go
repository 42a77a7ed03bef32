// Command health answers that the API answers. It depends on nothing, so it says so when all else is
// down. It also has the paths that no other function has, which it answers with 404.
package main

import (
	"context"

	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/wire"
)

func main() {
	gateway.Serve(routes())
}

type response struct{ Body wire.Data[health] }

type health struct {
	Status string `json:"status" enum:"ok"`
}

func routes() *wire.API {
	a := wire.New()
	wire.Register(a, wire.Operation{
		Method: "GET", Path: "/health", ID: "get-health", Summary: "Whether the API answers", Rule: wire.Rule{Public: true},
	}, func(context.Context, *struct{}) (*response, error) {
		return &response{wire.Data[health]{Data: health{"ok"}}}, nil
	})
	return a
}
