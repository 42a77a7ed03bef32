// Package role stands between the functions and the services they call, and lets through what the
// function's role in the template allows, as AWS would.
//
// A call is known by its access key id (each function has its own), its action, the resource it
// touches and what conditions ask about: the partition keys of DynamoDB's items, the sender of a message,
// the encryption context of KMS, the tags of keys. What the role does not allow is answered as the service would answer it,
// and logged. A permission for a service seen here that nothing used by the end is reported: it is either
// not needed or not tested.
//
// A call that is not understood is refused: letting it through would prove nothing. Policies of keys, queues
// and buckets are not looked at.
package role

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"

	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/local/policy"
	"cjj365.cc/bb/local/template"
)

// maxCallBytes is DynamoDB's bound of a request, the largest of them.
const maxCallBytes = 16 << 20

// services are those that pass through here. Others are used by AWS in the function's name (logs, xray) or
// not known here.
var services = []string{"dynamodb", "kms", "lambda", "s3", "ses", "sqs"}

// A Checker knows every function's role and what has been used of it.
type Checker struct {
	functions map[string]template.Function // by access key id
	log       io.Writer

	mu   sync.Mutex
	used map[grant]bool
}

// A grant is one action on one resource pattern in a function's role, or one value of a condition of its
// statement, which then has no action: it is enough that one action used it.
type grant struct{ function, action, resource, key, value string }

// call is one action on one resource.
type call struct {
	action   string
	resource string
	values   map[string][]string // by the key of a condition
}

const (
	leadingKeys  = "dynamodb:LeadingKeys"
	fromAddress  = "ses:FromAddress"
	contextKeys  = "kms:EncryptionContextKeys"
	contextValue = "kms:EncryptionContext:" // and the key in the context
	requestTag   = "aws:RequestTag/"        // and the tag that is given
	resourceTag  = "aws:ResourceTag/"       // and the tag that is there
)

// operators are the conditions that are understood, by key.
var operators = map[string][]string{
	leadingKeys:  {"ForAllValues:StringLike"},
	fromAddress:  {"StringEquals"},
	contextKeys:  {"ForAllValues:StringEquals", "ForAnyValue:StringEquals"},
	contextValue: {"StringEquals", "StringLike"},
	requestTag:   {"StringEquals", "StringLike"},
	resourceTag:  {"StringEquals", "StringLike"},
}

// family is a condition's key without what comes after it.
func family(key string) string {
	for _, prefix := range []string{contextValue, requestTag, resourceTag} {
		if strings.HasPrefix(key, prefix) && key != prefix {
			return prefix
		}
	}
	return key
}

// New makes a checker. Conditions that it does not know are refused here.
func New(functions []template.Function, log io.Writer) (*Checker, error) {
	c := &Checker{functions: map[string]template.Function{}, log: log, used: map[grant]bool{}}
	for _, f := range functions {
		c.functions[lambda.AccessKeyID(f)] = f
		for _, s := range f.Role {
			for operator, keys := range s.Conditions {
				for key := range keys {
					if !slices.Contains(operators[family(key)], operator) {
						return nil, fmt.Errorf("the role of %s: condition %s on %s is not understood here", f.LogicalID, operator, key)
					}
				}
			}
		}
	}
	return c, nil
}

// check allows every call, or says in AWS's words which one is not allowed.
func (c *Checker) check(accessKeyID string, calls []call) error {
	f, known := c.functions[accessKeyID]
	if !known {
		return fmt.Errorf("the access key id %q belongs to no function", accessKeyID)
	}
	var used []grant
	for _, call := range calls {
		grants, denied := allowed(f, call)
		if denied || len(grants) == 0 {
			err := fmt.Errorf("the role of %s is not authorized to perform: %s on resource: %s%s", f.LogicalID, call.action, call.resource, call.circumstances())
			fmt.Fprintln(c.log, "role:", err)
			return err
		}
		used = append(used, grants...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range used {
		c.used[g] = true
	}
	return nil
}

// circumstances are what a condition may have failed on. Which keys an encryption context has says enough.
func (c call) circumstances() string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(c.values)) {
		if !strings.HasPrefix(key, contextValue) {
			fmt.Fprintf(&b, " with %s %q", key, c.values[key])
		}
	}
	return b.String()
}

// allowed lists the grants that a call uses; denied is an explicit denial.
func allowed(f template.Function, call call) (grants []grant, denied bool) {
	for _, s := range f.Role {
		action := slices.IndexFunc(s.Actions, func(p string) bool { return policy.Match(strings.ToLower(p), strings.ToLower(call.action)) })
		resource := slices.IndexFunc(s.Resources, func(p string) bool { return policy.Match(p, call.resource) })
		if action < 0 || resource < 0 {
			continue
		}
		g := grant{function: f.LogicalID, resource: s.Resources[resource]}
		narrowed, ok := met(g, s.Conditions, call)
		if !ok {
			continue
		}
		if s.Deny {
			return nil, true
		}
		g.action = s.Actions[action]
		grants = append(append(grants, g), narrowed...)
	}
	return grants, false
}

// met tells whether a call meets every condition, and lists the conditions' values that it used. Like
// IAM, it lets a call without values pass ForAllValues, and no other.
func met(g grant, conditions map[string]map[string][]string, call call) ([]grant, bool) {
	var used []grant
	for operator, keys := range conditions {
		set, comparison, isSet := strings.Cut(operator, ":")
		if !isSet {
			comparison = operator
		}
		for key, patterns := range keys {
			matched := 0
			for _, value := range call.values[key] {
				i := slices.IndexFunc(patterns, func(p string) bool {
					return p == value || comparison == "StringLike" && policy.Match(p, value)
				})
				if i < 0 {
					continue
				}
				matched++
				g.key, g.value = key, patterns[i]
				used = append(used, g)
			}
			every := matched == len(call.values[key])
			if set == "ForAllValues" && !every || set != "ForAllValues" && matched == 0 {
				return nil, false
			}
		}
	}
	return used, true
}

// CheckEventSource tells whether a function's role lets Lambda take messages from a queue in its name,
// which AWS asks when it makes the event source mapping. It counts as no use.
func (c *Checker) CheckEventSource(function template.Function, queue string) error {
	for _, action := range []string{"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"} {
		if grants, denied := allowed(function, call{action: action, resource: queue}); denied || len(grants) == 0 {
			return fmt.Errorf("the role of %s does not have permissions to call %s on %s", function.LogicalID, action, queue)
		}
	}
	return nil
}

// Unused lists, for each function, what its role grants and nothing has used, of the services that
// pass through here. Of a condition's value it is enough that one action used it.
func (c *Checker) Unused() map[string][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	unused := map[string][]string{}
	for _, f := range c.functions {
		for _, s := range f.Role {
			if s.Deny {
				continue
			}
			for _, resource := range s.Resources {
				unused[f.LogicalID] = append(unused[f.LogicalID], c.unusedOf(f.LogicalID, s, resource)...)
			}
		}
		if len(unused[f.LogicalID]) == 0 {
			delete(unused, f.LogicalID)
		}
	}
	return unused
}

func (c *Checker) unusedOf(function string, s template.Statement, resource string) []string {
	var list []string
	for _, action := range s.Actions {
		service, _, _ := strings.Cut(action, ":")
		if slices.Contains(services, service) && !c.used[grant{function: function, action: action, resource: resource}] {
			list = append(list, action+" on "+resource)
		}
	}
	for _, operator := range slices.Sorted(maps.Keys(s.Conditions)) {
		for _, key := range slices.Sorted(maps.Keys(s.Conditions[operator])) {
			for _, value := range s.Conditions[operator][key] {
				if !c.used[grant{function: function, resource: resource, key: key, value: value}] {
					list = append(list, fmt.Sprintf("%s %s of %s", key, value, resource))
				}
			}
		}
	}
	return list
}

// guard passes on what the caller's role allows. calls says which actions a request needs, and fails
// with what is answered in their place; deny answers what the role does not allow.
func (c *Checker) guard(next http.Handler, calls func(r *http.Request, body []byte) ([]call, error), deny func(http.ResponseWriter, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCallBytes))
		var needed []call
		if err == nil {
			needed, err = calls(r, body)
		}
		if err == nil {
			err = c.check(accessKeyID(r), needed)
		}
		if err != nil {
			deny(w, err)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// operation is the last part of the header that names a JSON protocol's operation.
func operation(r *http.Request) string {
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	return operation
}

// forward is a proxy to an endpoint.
func forward(endpoint string, transport http.RoundTripper) (*httputil.ReverseProxy, error) {
	target, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("the endpoint of a service: %w", err)
	}
	return &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport,
	}, nil
}

var credential = regexp.MustCompile(`Credential=([^/]+)/`)

// accessKeyID is whose request it is, by its Signature Version 4.
func accessKeyID(r *http.Request) string {
	m := credential.FindStringSubmatch(r.Header.Get("Authorization"))
	if m == nil {
		return ""
	}
	return m[1]
}
