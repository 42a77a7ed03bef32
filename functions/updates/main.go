// Command updates tells a device what has changed for it since it last asked (contract §15).
//
// Almost every request finds nothing: it costs one read of one small item, the device's head, and no write. A request
// may wait for a change; how many do at a time is bounded, because each holds a process. How often a device asks, the
// answers say.
package main

import (
	"log/slog"
	"os"
	"strconv"
	"time"

	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/store"
)

func main() {
	env := environ.Variables("RESOURCE_TABLE", "HELD_POLLS", "IDLE_POLL_SECONDS")
	s, err := store.Open("", env[0])
	if err != nil {
		environ.Exit(err)
	}
	held, err := strconv.Atoi(env[1])
	if err != nil {
		environ.Exit(err)
	}
	idle, err := strconv.Atoi(env[2])
	if err != nil {
		environ.Exit(err)
	}
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	h := &handler{store: s, budget: newBudget(s, held), idle: time.Duration(idle) * time.Second, log: log, now: time.Now, rest: rest}
	gateway.Serve(h.routes())
}
