package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"cjj365.cc/bb/local/dynamodb"
)

// List prices in US dollars, us-east-1, November 2026, beyond the free tier.
const (
	perMillionGatewayRequests  = 3.50         // REST API, the first 333 million of a month
	perMillionFunctionRequests = 0.20         // arm64 as x86_64
	perGBSecond                = 0.0000133334 // arm64
	perMillionReadUnits        = 0.125        // on demand
	perMillionWriteUnits       = 0.625
)

// tableLatency is assumed of DynamoDB in the same region; a call there takes a few milliseconds.
const tableLatency = 4 * time.Millisecond

// cost counts what an authorized GET /apiv1/me consumes, and prices a million.
func cost(ctx context.Context, b *bench) error {
	db, err := startDatabase(ctx, b)
	if err != nil {
		return err
	}
	defer db.Stop()
	event, err := db.event(b)
	if err != nil {
		return err
	}
	units, policy, err := countUnits(ctx, b, db, event)
	if err != nil {
		return err
	}
	meEvent, err := functionEvent(event, policy)
	if err != nil {
		return err
	}
	front, err := startFront(b, db.URL)
	if err != nil {
		return err
	}
	defer front.stop()
	authorizer, err := bill(ctx, b, db, "Authorizer", event, tableLatency, map[string]string{
		"AWS_ENDPOINT_URL_DYNAMODB": front.url, "AWS_CA_BUNDLE": front.roots, "CREDENTIAL_TABLE": db.table,
	})
	if err != nil {
		return err
	}
	me, err := bill(ctx, b, db, "Me", meEvent, 0, nil)
	if err != nil {
		return err
	}
	reads, writes := units.steadyReads*perMillionReadUnits, units.markWrites*perMillionWriteUnits
	without := perMillionGatewayRequests + me.dollars
	steady := without + authorizer.dollars + reads
	b.table.add(
		line{"a key in steady use", dollars(steady), dollars(without) + " without authorizer", times(steady / without), "<= 1.10x", steady <= 1.1*without},
		line{"a key used less than once a minute", dollars(steady + writes), dollars(without) + " without authorizer", times((steady + writes) / without), "", false},
	)
	b.table.note("For a million GET /apiv1/me. Counted: %.1f read units each; the mark of the last use, once a minute, takes %.1f write units.",
		units.steadyReads, units.markWrites)
	b.table.note("  API Gateway        1,000,000 x $%.2f/million = %s", perMillionGatewayRequests, dollars(perMillionGatewayRequests))
	b.table.note("  Me                 %s", me.arithmetic)
	b.table.note("  Authorizer         %s", authorizer.arithmetic)
	b.table.note("  its read           1,000,000 x %.1f units x $%.3f/million = %s", units.steadyReads, perMillionReadUnits, dollars(reads))
	b.table.note("  its mark           at most 1,000,000 x %.1f units x $%.3f/million = %s", units.markWrites, perMillionWriteUnits, dollars(writes))
	b.table.note("Billed time is assumed as: processor time measured here / the memory's part of a processor, and %v for the read, rounded up", tableLatency)
	b.table.note("to 1 ms. Not in it: cold starts, logs, traces, data out, taxes.")
	return nil
}

// A consumption is the units of one authorization in steady use, and of one that writes the mark.
type consumption struct{ steadyReads, markWrites float64 }

// countUnits authorizes twice, first with the minute's mark, and gives the policy too.
func countUnits(ctx context.Context, b *bench, db *database, event []byte) (c consumption, policy []byte, err error) {
	m, err := dynamodb.NewMeter(db.URL)
	if err != nil {
		return c, nil, err
	}
	defer m.Close()
	e, err := startEnvironment(ctx, bootstrap(b, "Authorizer"), map[string]string{"AWS_ENDPOINT_URL_DYNAMODB": m.URL, "CREDENTIAL_TABLE": db.table})
	if err != nil {
		return c, nil, err
	}
	defer e.stop()
	m.Take() // the call at start
	if _, _, err := e.invoke(ctx, event); err != nil {
		return c, nil, err
	}
	_, c.markWrites = m.Take()
	if policy, _, err = e.invoke(ctx, event); err != nil {
		return c, nil, err
	}
	var writes float64
	if c.steadyReads, writes = m.Take(); writes != 0 || c.markWrites == 0 {
		return c, nil, fmt.Errorf("the first use wrote %.1f units and the second %.1f: the mark is not once a minute", c.markWrites, writes)
	}
	return c, policy, nil
}

// functionEvent makes of an authorizer's event and policy the event that a function then gets.
func functionEvent(event, policy []byte) ([]byte, error) {
	var e map[string]any
	if err := json.Unmarshal(event, &e); err != nil {
		return nil, err
	}
	var p struct {
		PrincipalID string `json:"principalId"`
		Context     map[string]any
	}
	if err := json.Unmarshal(policy, &p); err != nil {
		return nil, err
	}
	requestContext, ok := e["requestContext"].(map[string]any)
	if !ok || p.Context == nil {
		return nil, errors.New("no request context or no scope")
	}
	p.Context["principalId"] = p.PrincipalID
	requestContext["authorizer"] = p.Context
	e["path"], e["resource"] = "/apiv1/me", "/apiv1/me"
	return json.Marshal(e)
}

// An invoice is what a million invocations of a function cost.
type invoice struct {
	dollars    float64
	arithmetic string
}

// bill measures the processor time of a warm invocation, its runtime's loop included, and prices it.
func bill(ctx context.Context, b *bench, db *database, logicalID string, event []byte, waiting time.Duration, variables map[string]string) (invoice, error) {
	f, found := db.template.Function(logicalID)
	if !found {
		return invoice{}, fmt.Errorf("template.yaml has no function %s", logicalID)
	}
	some := b.rounds(1000)
	var few, many time.Duration
	for _, run := range []struct {
		invocations int
		used        *time.Duration
	}{{1, &few}, {1 + some, &many}} {
		e, err := startEnvironment(ctx, bootstrap(b, logicalID), variables)
		if err != nil {
			return invoice{}, err
		}
		for range run.invocations {
			answer, _, err := e.invoke(ctx, event)
			if err == nil && !bytes.Contains(answer, []byte(`"Allow"`)) && !bytes.Contains(answer, []byte(`"statusCode":20`)) {
				err = fmt.Errorf("%s: %s", logicalID, answer)
			}
			if err != nil {
				e.stop()
				return invoice{}, err
			}
		}
		*run.used = e.stop()
	}
	cpu := (many - few).Seconds() * 1e3 / float64(some)
	part := float64(f.Memory) / oneCPU
	billed := math.Ceil(waiting.Seconds()*1e3 + cpu/part)
	seconds, gigabytes := billed*1e3, float64(f.Memory)/1024
	total := perMillionFunctionRequests + seconds*gigabytes*perGBSecond
	return invoice{
		total,
		fmt.Sprintf("1,000,000 x $%.2f/million + %.0f s (%.2f ms CPU / %.3f -> %.0f ms billed) x %.3f GB x $%.10f = %s",
			perMillionFunctionRequests, seconds, cpu, part, billed, gigabytes, perGBSecond, dollars(total)),
	}, nil
}

func bootstrap(b *bench, logicalID string) string {
	return filepath.Join(b.root, "build", logicalID, "bootstrap")
}

func dollars(d float64) string { return fmt.Sprintf("$%.3f", d) }
