package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/cfn"
	"go.yaml.in/yaml/v3"

	"cjj365.cc/bb/local/dynamodb"
	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/local/role"
	"cjj365.cc/bb/local/ses"
	"cjj365.cc/bb/local/template"
)

// A stack is what the functions in containers reach on this machine.
type stack struct {
	folder          string
	listen, name    string // this machine's address for containers, and their name for it
	template        *template.Template
	email, password string
	endpoints       map[string]string // the functions' variables for them
	stops           []func()
}

func (s *stack) onStop(stop func()) { s.stops = append(s.stops, stop) }

func (s *stack) stop() {
	for _, stop := range slices.Backward(s.stops) {
		stop()
	}
}

// startStack starts DynamoDB Local in memory with the template's tables, and SES, each behind the
// check of the functions' roles. The stack is to be stopped after an error too, if there is one.
func startStack(ctx context.Context, folder string, e *engine) (*stack, error) {
	s := &stack{folder: folder, email: "admin@example.test", password: "Aa." + rand.Text(), endpoints: map[string]string{}}
	log, err := os.Create(filepath.Join(folder, "services.log"))
	if err != nil {
		return nil, err
	}
	s.onStop(func() { _ = log.Close() })
	if s.listen, s.name, err = e.hostAddress(ctx); err != nil {
		return s, err
	}
	values := parameters()
	values["FirstUserEmail"], values["FirstUserPassword"] = s.email, s.password
	if s.template, err = template.Read("template.yaml", template.Options{Parameters: values}); err != nil {
		return s, err
	}
	roles, err := role.New(s.template.Functions, log)
	if err != nil {
		return s, err
	}
	database, err := dynamodb.Start(ctx, dynamodb.Options{Log: log})
	if err != nil {
		return s, err
	}
	s.onStop(database.Stop)
	if err := database.CreateTables(ctx, s.template.Tables); err != nil {
		return s, err
	}
	tables, err := roles.DynamoDB(database.URL, s.template.Tables)
	if err != nil {
		return s, err
	}
	mailbox, err := ses.NewMailbox(filepath.Join(folder, "state", "mail"), log)
	if err != nil {
		return s, err
	}
	for service, handler := range map[string]http.Handler{"DYNAMODB": tables, "SESV2": roles.SES(s.template, mailbox)} {
		url, stop, err := s.serve(handler)
		if err != nil {
			return s, err
		}
		s.onStop(stop)
		s.endpoints["AWS_ENDPOINT_URL_"+service] = url
	}
	return s, nil
}

// serve serves to containers, on a free port.
func (s *stack) serve(handler http.Handler) (url string, stop func(), err error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(s.listen, "0"))
	if err != nil {
		return "", nil, fmt.Errorf("%w: containers do not reach this machine: %w", errNotRun, err)
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(listener)
	return "http://" + net.JoinHostPort(s.name, port), func() { _ = server.Close() }, nil
}

// writeTemplate gives the functions of the built template what AWS would give them and sam local does
// not: the names of the tables (sam local takes a table's logical id for its name), credentials of
// their own, and where the services are (it passes no variable that the template lacks), and plain names.
func (s *stack) writeTemplate(built, to string) error {
	text, err := os.ReadFile(built)
	if err != nil {
		return err
	}
	if text, err = addVariables(text, s.template, s.endpoints); err != nil {
		return fmt.Errorf("%s: %w", built, err)
	}
	return os.WriteFile(to, text, 0o600)
}

func addVariables(text []byte, t *template.Template, endpoints map[string]string) ([]byte, error) {
	var document map[string]any
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	resources, _ := document["Resources"].(map[string]any)
	// sam local takes all APIs for one, with the CORS of the last: those that have no script here are left out.
	for _, api := range t.Mapped {
		delete(resources, api.LogicalID)
	}
	for _, f := range t.Functions {
		resource, _ := resources[f.LogicalID].(map[string]any)
		properties, found := resource["Properties"].(map[string]any)
		if !found {
			return nil, fmt.Errorf("it has no function %s", f.LogicalID)
		}
		events, _ := properties["Events"].(map[string]any)
		for name, event := range events {
			for _, api := range t.Mapped {
				if strings.Contains(fmt.Sprint(event), "Ref:"+api.LogicalID) {
					delete(events, name)
				}
			}
		}
		environment, _ := properties["Environment"].(map[string]any)
		variables, _ := environment["Variables"].(map[string]any)
		if variables == nil {
			variables = map[string]any{}
		}
		for name, value := range f.Environment {
			if slices.ContainsFunc(t.Tables, func(t template.Table) bool { return t.Name == value }) {
				variables[name] = value
			}
		}
		for name, url := range endpoints {
			variables[name] = url
		}
		variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"] = lambda.AccessKeyID(f), "local"
		properties["Environment"] = map[string]any{"Variables": variables}
	}
	return yaml.Marshal(document)
}

// makeFirstUser invokes FirstUser as CloudFormation does at deployment, and waits for its answer.
func (s *stack) makeFirstUser(ctx context.Context, sam sam) error {
	for _, c := range s.template.Custom {
		if err := s.makeCustomResource(ctx, sam, c); err != nil {
			return fmt.Errorf("make %s: %w", c.LogicalID, err)
		}
	}
	if len(s.template.Custom) == 0 {
		return errors.New("the template makes no user")
	}
	return nil
}

func (s *stack) makeCustomResource(ctx context.Context, sam sam, c template.CustomResource) error {
	results := make(chan cfn.Response, 1)
	url, stop, err := s.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var result cfn.Response
		if r.Method != http.MethodPut || json.NewDecoder(r.Body).Decode(&result) != nil {
			http.Error(w, "not the answer to a custom resource", http.StatusBadRequest)
			return
		}
		select {
		case results <- result:
		default: // the first answer counts
		}
	}))
	if err != nil {
		return err
	}
	defer stop()
	event, err := json.Marshal(cfn.Event{
		RequestType: cfn.RequestCreate, RequestID: "1", ResponseURL: url, ResourceType: c.Type, LogicalResourceID: c.LogicalID,
		StackID:            fmt.Sprintf("arn:aws:cloudformation:%s:%s:stack/%s/local", s.template.Region, s.template.Account, s.template.Stack),
		ResourceProperties: c.Properties,
	})
	if err != nil {
		return err
	}
	file := filepath.Join(s.folder, "state", c.LogicalID+".json")
	if err := os.WriteFile(file, event, 0o600); err != nil {
		return err
	}
	defer os.Remove(file)
	answer, err := sam.invoke(ctx, c.Function, file)
	if err != nil {
		return err
	}
	// The function answers before it ends.
	select {
	case result := <-results:
		if result.Status != cfn.StatusSuccess {
			return fmt.Errorf("%s: %s", result.Status, result.Reason)
		}
		return nil
	default:
		return fmt.Errorf("no answer came to its ResponseURL: %s", answer)
	}
}

func (s *stack) file() string { return filepath.Join(s.folder, "state", "stack.json") }

// announce writes what BB_E2E_STACK is to name. The gateway's name tells the scripts what to skip.
func (s *stack) announce(url string) error {
	text, err := json.Marshal(map[string]any{"url": url, "email": s.email, "password": s.password, "pid": os.Getpid(), "gateway": "sam"})
	if err != nil {
		return err
	}
	return os.WriteFile(s.file(), text, 0o600)
}
