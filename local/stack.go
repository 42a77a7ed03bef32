package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"cjj365.cc/bb/local/dynamodb"
	"cjj365.cc/bb/local/gateway"
	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/local/ministack"
	"cjj365.cc/bb/local/role"
	"cjj365.cc/bb/local/ses"
	"cjj365.cc/bb/local/template"
)

// drainTimeout is how long requests under way may take when the stack stops.
const drainTimeout = 5 * time.Second

// A config says what to run.
type config struct {
	template string
	build    string
	state    string
}

// A stack is what runs. Its parts are stopped in the reverse order of their start.
type stack struct {
	config
	state    *state
	listener net.Listener
	url      string
	user     firstUser
	seeded   seeded
	options  template.Options
	template *template.Template
	database *dynamodb.Server  // nil without tables
	services *ministack.Server // nil where nothing calls KMS, SQS or S3
	queues   string            // where functions reach SQS
	acme     *acme             // nil where nothing orders certificates
	roles    *role.Checker
	host     *lambda.Host
	invoke   string // where Lambda's Invoke API is
	server   *http.Server
	stops    []func()
}

// serve runs the stack until ctx ends, which is no error.
func serve(ctx context.Context, c config) error {
	s := &stack{config: c}
	defer s.stop()
	if err := s.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	s.announce(os.Stdout)
	return s.wait(ctx)
}

func (s *stack) stop() {
	for _, stop := range slices.Backward(s.stops) {
		stop()
	}
}

func (s *stack) onStop(stop func()) { s.stops = append(s.stops, stop) }

// start does what fails most often first, and starts processes last.
func (s *stack) start(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		s.lock,
		s.listen,
		s.read,
		s.beginACME,
		s.startDatabase,
		s.startServices,
		s.startFunctions,
		s.awaitACME,
		s.makeCustomResources,
		s.startEvents,
		s.startGateway,
		s.seed,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	said := running{URL: s.url, Email: s.user.Email, Password: s.user.Password, PID: os.Getpid(), Invoke: s.invoke}
	if s.services != nil {
		said.Services = s.services.URL
	}
	said.ACME, said.DNS = s.acme.running()
	if s.seeded != (seeded{}) {
		said.FirstUser = &s.seeded
	}
	return s.state.write(stackName, said)
}

func (s *stack) lock(context.Context) (err error) {
	if s.state, err = openState(s.config.state); err != nil {
		return err
	}
	s.onStop(s.state.release)
	return nil
}

// listen takes the port. Who connects before the stack has started waits for it.
func (s *stack) listen(context.Context) error {
	port := os.Getenv("BB_PORT")
	if port == "" {
		port = "8080"
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %s is in use; set BB_PORT to another one", port)
	}
	if err != nil {
		return fmt.Errorf("listen on the port in BB_PORT: %w", err)
	}
	s.onStop(func() { _ = listener.Close() })
	s.listener, s.url = listener, "http://"+listener.Addr().String()
	return nil
}

func (s *stack) read(context.Context) error {
	parameters, err := s.parameters()
	if err != nil {
		return err
	}
	s.user = firstUser{Email: parameters["FirstUserEmail"], Password: parameters["FirstUserPassword"]}
	s.options = template.Options{Parameters: parameters}
	s.template, err = template.Read(s.config.template, s.options)
	if err != nil {
		return err
	}
	if s.template.API == nil {
		return fmt.Errorf("%s has no API to serve", s.config.template)
	}
	if err := lambda.CheckBuilt(s.build, s.template.Functions); err != nil {
		return fmt.Errorf("%w; run: make build", err)
	}
	return nil
}

// parameters are this machine's, as far as the template declares them, and those of BB_PARAMETERS.
func (s *stack) parameters() (map[string]string, error) {
	declared, err := template.Parameters(s.config.template)
	if err != nil {
		return nil, err
	}
	local := map[string]string{
		"Stage":     "local",
		"MailFrom":  "bb@localhost.test",
		"PublicURL": s.url,
		// Each poll that is held is a process.
		"HeldPolls": "100000", "UpdatesConcurrency": "256",
		"DeletionProtection": "false",
		// Load tests of one machine are not to be throttled.
		"ThrottleRate":  "10000",
		"ThrottleBurst": "5000",
	}
	if slices.Contains(declared, "FirstUserEmail") && slices.Contains(declared, "FirstUserPassword") {
		user, err := s.state.firstUser()
		if err != nil {
			return nil, err
		}
		local["FirstUserEmail"], local["FirstUserPassword"] = user.Email, user.Password
	}
	if needsACME(declared) {
		if s.acme, err = s.state.newACME(os.Stderr, portPatience); err != nil {
			return nil, err
		}
		maps.Copy(local, s.acme.parameters())
	}
	parameters := map[string]string{}
	for _, name := range declared {
		if value, found := local[name]; found {
			parameters[name] = value
		}
	}
	for setting := range strings.FieldsSeq(os.Getenv("BB_PARAMETERS")) {
		name, value, found := strings.Cut(setting, "=")
		if !found {
			return nil, errors.New("BB_PARAMETERS must be Name=Value Name=Value")
		}
		parameters[name] = value
	}
	return parameters, nil
}

func (s *stack) startDatabase(ctx context.Context) error {
	if len(s.template.Tables) == 0 {
		return nil
	}
	log, err := os.OpenFile(s.state.path(databaseLogName), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the database's log: %w", err)
	}
	defer log.Close() // the database has it open by itself
	o := dynamodb.Options{Dir: s.state.path(databaseName), Log: log}
	if os.Getenv("BB_MEMORY") == "1" {
		o.Dir = ""
	}
	if s.database, err = dynamodb.Start(ctx, o); err != nil {
		return err
	}
	s.onStop(s.database.Stop)
	return s.database.CreateTables(ctx, s.template.Tables)
}

func (s *stack) startFunctions(context.Context) error {
	mailbox, err := ses.NewMailbox(s.state.path(mailName), os.Stderr)
	if err != nil {
		return err
	}
	if s.roles, err = role.New(s.template.Functions, os.Stderr); err != nil {
		return fmt.Errorf("%s: %w", s.config.template, err)
	}
	s.onStop(s.reportRoles)
	env := map[string]string{}
	if err := s.offer(env, "SESV2", s.roles.SES(s.template, mailbox)); err != nil {
		return err
	}
	if s.database != nil {
		checked, err := s.roles.DynamoDB(s.database.URL, s.template.Tables)
		if err != nil {
			return err
		}
		if err := s.offer(env, "DYNAMODB", checked); err != nil {
			return err
		}
	}
	if err := s.offerServices(env); err != nil {
		return err
	}
	s.queues = env["AWS_ENDPOINT_URL_SQS"]
	invocations, url, err := reserve()
	if err != nil {
		return fmt.Errorf("listen for calls to LAMBDA: %w", err)
	}
	s.onStop(func() { _ = invocations.Close() })
	env["AWS_ENDPOINT_URL_LAMBDA"] = url
	s.host, err = lambda.NewHost(s.template.Functions, lambda.Options{Build: s.build, Env: env, Log: os.Stderr})
	if err != nil {
		return err
	}
	s.onStop(s.host.Stop)
	s.onStop(serveOn(invocations, s.roles.Lambda(s.template, s.host)))
	return nil
}

// offer serves a service of AWS to the functions, and tells them where.
func (s *stack) offer(env map[string]string, service string, handler http.Handler) error {
	url, closeListener, err := listen(handler)
	if err != nil {
		return fmt.Errorf("listen for calls to %s: %w", service, err)
	}
	s.onStop(closeListener)
	env["AWS_ENDPOINT_URL_"+service] = url
	return nil
}

// reportRoles leaves a list of the permissions that nothing has used.
func (s *stack) reportRoles() {
	if err := s.state.write(permissionsName, s.roles.Unused()); err != nil {
		fmt.Fprintln(os.Stderr, "bb:", err)
	}
}

func (s *stack) makeCustomResources(ctx context.Context) error {
	for _, c := range s.template.Custom {
		if err := makeCustomResource(ctx, s.host, s.template, c); err != nil {
			return err
		}
	}
	return nil
}

func (s *stack) startGateway(context.Context) error {
	handler, err := gateway.New(s.template, s.host, gateway.Options{AccessLog: os.Stderr, Log: os.Stderr})
	if err != nil {
		return fmt.Errorf("%s: %w", s.config.template, err)
	}
	s.server = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(os.Stderr, "gateway: ", 0),
	}
	s.onStop(s.drain)
	go s.server.Serve(s.listener)
	if s.acme != nil {
		closeHTTPS, err := s.acme.serveHTTPS(s.server.Handler)
		if err != nil {
			return err
		}
		s.onStop(closeHTTPS)
	}
	return nil
}

// drain stops accepting and lets requests under way finish.
func (s *stack) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if s.server.Shutdown(ctx) != nil {
		_ = s.server.Close()
	}
}

// wait returns when the stack is to stop, or when one of its parts has gone.
func (s *stack) wait(ctx context.Context) error {
	var databaseGone, servicesGone <-chan struct{}
	if s.database != nil {
		databaseGone = s.database.Done()
	}
	if s.services != nil {
		servicesGone = s.services.Done()
	}
	pebbleGone, dnsGone := s.acme.gone()
	select {
	case <-ctx.Done():
		return nil
	case <-pebbleGone:
		return fmt.Errorf("the ACME server Pebble ended by itself; %s has its last words", s.state.path(acmeLogName))
	case <-dnsGone:
		return fmt.Errorf("a DNS server ended by itself; %s has its last words", s.state.path(acmeLogName))
	case <-servicesGone:
		return fmt.Errorf("the stand-in MiniStack ended by itself; %s has its last words", s.state.path(servicesLogName))
	case <-databaseGone:
		return errors.New("DynamoDB Local ended by itself")
	}
}

func (s *stack) announce(w io.Writer) {
	fmt.Fprintf(w, "The stack runs at %s\n", s.url)
	s.acme.announce(w)
	if s.user.Email == "" {
		return
	}
	fmt.Fprintf(w, `First user: %s
Password:   %s
To log in:
  curl -c cookies.txt -H 'Content-Type: application/json' -d '{"action":"login","email":"%s","password":"%s"}' %s/auth/general
`, s.user.Email, s.user.Password, s.user.Email, s.user.Password, s.url)
	if s.seeded.ACMEAccount != 0 {
		fmt.Fprintf(w, "To order certificates: acme_account_id %d, dns_provider_id %d\n", s.seeded.ACMEAccount, s.seeded.DNSProvider)
	}
}
