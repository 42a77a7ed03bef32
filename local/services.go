package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"cjj365.cc/bb/local/ministack"
	"cjj365.cc/bb/local/queue"
	"cjj365.cc/bb/local/schedule"
	"cjj365.cc/bb/local/template"
)

// startServices runs MiniStack for the keys, queues and buckets of a template whose functions use them, and reads
// the template again: what KMS calls its keys is known only now.
func (s *stack) startServices(ctx context.Context) error {
	if !usesServices(s.template) {
		return nil
	}
	log, err := os.OpenFile(s.state.path(servicesLogName), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open MiniStack's log: %w", err)
	}
	defer log.Close() // MiniStack has it open by itself
	o := ministack.Options{Dir: s.state.path(servicesName), Log: log}
	if os.Getenv("BB_MEMORY") == "1" {
		o.Dir = ""
	}
	if s.services, err = ministack.Start(ctx, o); err != nil {
		return err
	}
	s.onStop(s.services.Stop)
	ids, err := s.services.CreateKeys(ctx, s.template.Keys)
	if err != nil {
		return err
	}
	s.options.KeyIDs = ids
	if s.template, err = template.Read(s.config.template, s.options); err != nil {
		return err
	}
	if err := s.services.CreateAliases(ctx, s.template.Aliases); err != nil {
		return err
	}
	if err := s.services.CreateBuckets(ctx, s.template.Buckets); err != nil {
		return err
	}
	return s.services.CreateQueues(ctx, s.template.Queues)
}

// usesServices tells whether anything calls KMS, SQS or S3. A key that only AWS's own services use, for what
// they keep, needs no KMS here.
func usesServices(t *template.Template) bool {
	return len(t.Queues) > 0 || len(t.Buckets) > 0 || slices.ContainsFunc(t.Functions, func(f template.Function) bool {
		return slices.ContainsFunc(f.Role, func(s template.Statement) bool {
			return slices.ContainsFunc(s.Actions, func(action string) bool { return strings.HasPrefix(action, "kms:") })
		})
	})
}

// offerServices serves KMS, SQS and S3 to the functions.
func (s *stack) offerServices(env map[string]string) error {
	if s.services == nil {
		return nil
	}
	keys, err := s.roles.KMS(s.services.URL, s.template)
	if err != nil {
		return err
	}
	queues, err := s.roles.SQS(s.services.URL, s.template)
	if err != nil {
		return err
	}
	objects, err := s.roles.S3(s.services.URL, s.template)
	if err != nil {
		return err
	}
	if err := s.offer(env, "KMS", keys); err != nil {
		return err
	}
	if err := s.offer(env, "S3", objects); err != nil {
		return err
	}
	return s.offer(env, "SQS", queues)
}

// startEvents has queues and schedules invoke the functions, and lets whoever is on this machine do so.
func (s *stack) startEvents(ctx context.Context) error {
	for _, source := range s.template.Sources {
		f, _ := s.template.Function(source.Function)
		if err := s.roles.CheckEventSource(f, source.Queue); err != nil {
			return fmt.Errorf("%s: %w", s.config.template, err)
		}
	}
	if len(s.template.Sources) > 0 {
		delivery, err := queue.Start(ctx, s.template, s.host, queue.Options{Endpoint: s.queues, Log: os.Stderr})
		if err != nil {
			return err
		}
		s.onStop(delivery.Stop)
	}
	s.onStop(schedule.Start(s.template, s.host.InvokeAsync))
	invoke, closeInvoke, err := listen(notForPages(s.host))
	if err != nil {
		return fmt.Errorf("listen for invocations: %w", err)
	}
	s.onStop(closeInvoke)
	s.invoke = invoke
	return nil
}

// notForPages refuses what a page in a browser sends: anybody's page may send to this machine's ports.
func notForPages(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil || host != "127.0.0.1" && host != "localhost" || r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
			http.Error(w, "not for pages in a browser", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// reserve listens for what is served later: the functions are told an address before they run.
func reserve() (net.Listener, string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	return listener, "http://" + listener.Addr().String(), nil
}

// serveOn serves on a listener until it is closed.
func serveOn(listener net.Listener, handler http.Handler) (closeServer func()) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(listener)
	return func() { _ = server.Close() }
}
