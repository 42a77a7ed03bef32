package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// memories are the sizes of a function at which a cold decision is measured.
var memories = []int{128, 256, 512}

// A start is what the first event of a fresh process took.
type start struct {
	connected time.Duration // until its first connection to DynamoDB; 0 if none came before the event
	init      time.Duration // until it asked for an event
	decision  time.Duration // init and answer
}

// A starter is a function to be started again and again.
type starter struct {
	bootstrap string
	variables map[string]string
	starts    map[int][]start // by memory
}

// cold starts the authorizer and its peer in turn, each under the quota of each memory.
func cold(ctx context.Context, b *bench) error {
	quotas := map[int]*quota{}
	for _, memory := range memories {
		q, err := newQuota(memory)
		if err != nil {
			b.table.note("not measured: no cgroup whose processor time can be limited (%v)", err)
			return nil
		}
		defer q.remove()
		quotas[memory] = q
	}
	db, err := startDatabase(ctx, b)
	if err != nil {
		return err
	}
	defer db.Stop()
	front, err := startFront(b, db.URL)
	if err != nil {
		return err
	}
	defer front.stop()
	event, err := db.event(b)
	if err != nil {
		return err
	}
	empty, err := buildProgram(ctx, b, "Empty")
	if err != nil {
		return err
	}
	peer, err := buildProgram(ctx, b, "Peer")
	if err != nil {
		return err
	}
	noFolder := filepath.Join(b.work, "no-certificates")
	if err := os.Mkdir(noFolder, 0o700); err != nil {
		return err
	}
	ours := &starter{bootstrap(b, "Authorizer"), map[string]string{
		"AWS_ENDPOINT_URL_DYNAMODB": front.url, "CREDENTIAL_TABLE": db.table, "AWS_CA_BUNDLE": front.roots,
	}, map[int][]start{}}
	theirs := &starter{peer, map[string]string{
		"AWS_ENDPOINT_URL_DYNAMODB": front.url, "CREDENTIAL_TABLE": db.table, "PEER_PK": db.key.PK, "PEER_SK": db.key.SK,
		"SSL_CERT_FILE": front.allRoots, "SSL_CERT_DIR": noFolder,
	}, map[int][]start{}}
	least := &starter{empty, nil, map[int][]start{}}
	rounds := b.rounds(20)
	for round := range rounds + 1 {
		for _, memory := range memories {
			for _, s := range []*starter{ours, theirs, least} {
				measured, err := s.start(ctx, front, quotas[memory], event)
				if err != nil {
					return err
				}
				if round > 0 { // the first warms the page cache and DynamoDB Local
					s.starts[memory] = append(s.starts[memory], measured)
				}
			}
		}
	}
	reportCold(b, ours, theirs, least)
	b.table.note("Medians of %d rounds in turn. The quota (memory/%d of a processor in each %v) holds from the end of init, as on Lambda.", rounds, oneCPU, quotaPeriod)
	b.table.note("DynamoDB Local stands behind TLS. The peer is the SDK with LoadDefaultConfig, this system's %d roots, and its first call in the handler.", front.rootCount)
	return nil
}

func reportCold(b *bench, ours, theirs, least *starter) {
	decision := func(s start) time.Duration { return s.decision }
	initialised := func(s start) time.Duration { return s.init }
	var lines []line
	for _, memory := range memories {
		a, p := ours.median(decision, memory), theirs.median(decision, memory)
		l := line{fmt.Sprintf("start to first policy, %d MB", memory), milliseconds(a), milliseconds(p) + " SDK peer", times(quotient(p, a)),
			"<= 30 ms", a <= 30*time.Millisecond}
		if memory == memories[0] {
			l.goal, l.met = "<= 30 ms, >= 5x faster", l.met && p >= 5*a
		}
		lines = append(lines, l)
	}
	floor := least.median(initialised, memories...)
	whole := ours.median(initialised, memories...)
	connected := ours.median(func(s start) time.Duration { return s.connected }, memories...)
	peer := theirs.median(initialised, memories...)
	against := milliseconds(floor) + " empty function"
	b.table.add(append(lines,
		line{"init, its first call included", milliseconds(whole), against, times(quotient(whole, floor)), "<= 1.50x", quotient(whole, floor) <= 1.5},
		line{"init up to that call", milliseconds(connected), against, times(quotient(connected, floor)), "", false},
		line{"init of the SDK peer, without a call", milliseconds(peer), against, times(quotient(peer, floor)), "", false},
	)...)
}

// start starts the function once and asks it for a decision.
func (s *starter) start(ctx context.Context, front *front, q *quota, event []byte) (start, error) {
	front.connected.Store(0)
	e, err := startEnvironment(ctx, s.bootstrap, s.variables)
	if err != nil {
		return start{}, err
	}
	defer e.stop()
	measured := start{init: e.init}
	if at := front.connected.Load(); at != 0 {
		measured.connected = time.Unix(0, at).Sub(e.began)
	}
	if err := q.hold(e.command.Process.Pid); err != nil {
		return start{}, err
	}
	body, took, err := e.invoke(ctx, event)
	if err != nil {
		return start{}, err
	}
	measured.decision = e.init + took
	if s.variables != nil && !bytes.Contains(body, []byte(`"Allow"`)) {
		return start{}, fmt.Errorf("%s did not allow: %s", s.bootstrap, body)
	}
	return measured, nil
}

func (s *starter) median(of func(start) time.Duration, memories ...int) time.Duration {
	var all []time.Duration
	for _, memory := range memories {
		for _, one := range s.starts[memory] {
			all = append(all, of(one))
		}
	}
	return median(all)
}

// buildProgram builds a program of this folder as make builds functions, into <logical id>/bootstrap.
func buildProgram(ctx context.Context, b *bench, logicalID string) (string, error) {
	file := filepath.Join(b.work, "build", logicalID, "bootstrap")
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", "lambda.norpc", "-ldflags", "-s -w -buildid=", "-o", file, ".")
	command.Dir = filepath.Join(b.root, "bench", strings.ToLower(logicalID))
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", logicalID, err, output)
	}
	return file, nil
}
