// Package role stands between the functions and the services they call, and lets through what the
// function's role in the template allows, as AWS would.
//
// A call is known by its access key id (each function has its own), its action, the resource it
// touches and, for DynamoDB, the partition keys of the items. What the role does not allow is answered
// with AWS's AccessDeniedException and logged. A permission for a service seen here that nothing used
// by the end is reported: it is either not needed or not tested.
//
// A call that is not understood is refused: letting it through would prove nothing.
package role

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/local/policy"
	"cjj365.cc/bb/local/template"
)

// A Checker knows every function's role and what has been used of it.
type Checker struct {
	functions map[string]template.Function // by access key id
	log       io.Writer

	mu   sync.Mutex
	used map[grant]bool
}

// A grant is one action on one resource pattern in a function's role, narrowed to partition keys that
// fit one pattern; the pattern is empty where the statement has no such condition.
type grant struct{ function, action, resource, leadingKey string }

// call is one action on one resource.
type call struct {
	action      string
	resource    string
	leadingKeys []string // of DynamoDB's items
	from        string   // of SES's messages
}

const (
	leadingKeys = "dynamodb:LeadingKeys"
	fromAddress = "ses:FromAddress"
)

// New makes a checker. Conditions that it does not know are refused here.
func New(functions []template.Function, log io.Writer) (*Checker, error) {
	c := &Checker{functions: map[string]template.Function{}, log: log, used: map[grant]bool{}}
	for _, f := range functions {
		c.functions[lambda.AccessKeyID(f)] = f
		for _, s := range f.Role {
			for operator, keys := range s.Conditions {
				for key := range keys {
					if c := operator + " " + key; c != "ForAllValues:StringLike "+leadingKeys && c != "StringEquals "+fromAddress {
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
			err := fmt.Errorf("the role of %s is not authorized to perform: %s on resource: %s with leading keys %q", f.LogicalID, call.action, call.resource, call.leadingKeys)
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

// allowed lists the grants that a call uses; denied is an explicit denial.
func allowed(f template.Function, call call) (grants []grant, denied bool) {
	for _, s := range f.Role {
		action := slices.IndexFunc(s.Actions, func(p string) bool { return policy.Match(strings.ToLower(p), strings.ToLower(call.action)) })
		resource := slices.IndexFunc(s.Resources, func(p string) bool { return policy.Match(p, call.resource) })
		if action < 0 || resource < 0 {
			continue
		}
		if senders := s.Conditions["StringEquals"][fromAddress]; senders != nil && !slices.Contains(senders, call.from) {
			continue
		}
		patterns := s.Conditions["ForAllValues:StringLike"][leadingKeys]
		g := grant{function: f.LogicalID, action: s.Actions[action], resource: s.Resources[resource]}
		matched, ok := narrowed(g, patterns, call.leadingKeys)
		if !ok {
			continue
		}
		if s.Deny {
			return nil, true
		}
		grants = append(grants, matched...)
	}
	return grants, false
}

// narrowed lists the patterns that the keys fit, and whether each key fits one. Like IAM, it lets a
// call without keys pass.
func narrowed(g grant, patterns, keys []string) ([]grant, bool) {
	if patterns == nil {
		return []grant{g}, true
	}
	var grants []grant
	for _, key := range keys {
		i := slices.IndexFunc(patterns, func(p string) bool { return policy.Match(p, key) })
		if i < 0 {
			return nil, false
		}
		g.leadingKey = patterns[i]
		grants = append(grants, g)
	}
	return grants, true
}

// Unused lists, for each function, what its role grants and nothing has used, of the services that
// pass through here. Of a pattern for partition keys it is enough that one action used it.
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
		if service == "dynamodb" || service == "ses" {
			if !c.anyUsed(func(g grant) bool { return g.function == function && g.action == action && g.resource == resource }) {
				list = append(list, action+" on "+resource)
			}
		}
	}
	for _, pattern := range s.Conditions["ForAllValues:StringLike"][leadingKeys] {
		if !c.anyUsed(func(g grant) bool { return g.function == function && g.resource == resource && g.leadingKey == pattern }) {
			list = append(list, "leading keys "+pattern+" of "+resource)
		}
	}
	return list
}

func (c *Checker) anyUsed(is func(grant) bool) bool {
	for g := range c.used {
		if is(g) {
			return true
		}
	}
	return false
}
