// Package policy evaluates the IAM policies that a Lambda authorizer returns.
//
// A policy is a list of statements. Each allows or denies actions on resources, both given as
// patterns where * stands for any characters and ? for one. An explicit Deny wins over every
// Allow, and what no statement allows is denied. Patterns span the whole name: a * crosses the
// slashes and colons of an ARN.
//
// Elements that this package does not evaluate (Condition, NotAction, NotResource, Principal,
// policy variables) make Parse fail: ignoring one could allow what IAM refuses.
package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// A Policy is a parsed policy document.
type Policy struct {
	statements []statement
}

type statement struct {
	deny      bool
	actions   []string // lower case: actions are compared without case
	resources []string
}

// A Decision is what a policy says about one action on one resource.
type Decision int

const (
	// Unmentioned is a denial because no statement allows it.
	Unmentioned Decision = iota
	// Allowed by a statement and denied by none.
	Allowed
	// Denied by a statement.
	Denied
)

// Parse reads a policy document.
func Parse(document []byte) (Policy, error) {
	var p Policy
	elements, err := object(document)
	if err != nil {
		return p, fmt.Errorf("parse policy: %w", err)
	}
	for name, value := range elements {
		switch name {
		case "Version":
			err = version(value)
		case "Id":
		case "Statement":
			p.statements, err = statements(value)
		default:
			err = fmt.Errorf("element %q is not supported", name)
		}
		if err != nil {
			return Policy{}, fmt.Errorf("parse policy: %w", err)
		}
	}
	if len(p.statements) == 0 {
		return p, errors.New("parse policy: it has no statement")
	}
	return p, nil
}

// Evaluate decides about an action on a resource.
func (p Policy) Evaluate(action, resource string) Decision {
	decision := Unmentioned
	action = strings.ToLower(action)
	for _, s := range p.statements {
		if !anyMatches(s.actions, action) || !anyMatches(s.resources, resource) {
			continue
		}
		if s.deny {
			return Denied
		}
		decision = Allowed
	}
	return decision
}

// object decodes a JSON object without folding the case of its names, as encoding/json would for a struct.
func object(data []byte) (map[string]json.RawMessage, error) {
	var elements map[string]json.RawMessage
	if err := json.Unmarshal(data, &elements); err != nil {
		return nil, err
	}
	if elements == nil {
		return nil, errors.New("it is null")
	}
	return elements, nil
}

func version(data json.RawMessage) error {
	var v string
	if err := json.Unmarshal(data, &v); err != nil || v != "2012-10-17" && v != "2008-10-17" {
		return errors.New("version is neither 2012-10-17 nor 2008-10-17")
	}
	return nil
}

// statements reads a list of statements or a single one.
func statements(data json.RawMessage) ([]statement, error) {
	var list []json.RawMessage
	if data[0] == '[' {
		if err := json.Unmarshal(data, &list); err != nil {
			return nil, err
		}
	} else {
		list = append(list, data)
	}
	parsed := make([]statement, len(list))
	for i, item := range list {
		var err error
		if parsed[i], err = parseStatement(item); err != nil {
			return nil, fmt.Errorf("statement %d: %w", i, err)
		}
	}
	return parsed, nil
}

func parseStatement(data json.RawMessage) (statement, error) {
	var s statement
	elements, err := object(data)
	if err != nil {
		return s, err
	}
	var effect string
	for name, value := range elements {
		switch name {
		case "Sid":
		case "Effect":
			err = json.Unmarshal(value, &effect)
		case "Action":
			s.actions, err = patterns(value)
		case "Resource":
			s.resources, err = patterns(value)
		default:
			err = fmt.Errorf("element %q is not supported", name)
		}
		if err != nil {
			return s, err
		}
	}
	if effect != "Allow" && effect != "Deny" {
		return s, errors.New("effect is neither Allow nor Deny")
	}
	if len(s.actions) == 0 || len(s.resources) == 0 {
		return s, errors.New("it lacks an Action or a Resource")
	}
	for i, action := range s.actions {
		s.actions[i] = strings.ToLower(action)
	}
	s.deny = effect == "Deny"
	return s, nil
}

// patterns reads a string or a list of strings.
func patterns(data json.RawMessage) ([]string, error) {
	list := make([]string, 1)
	var err error
	if data[0] == '[' {
		err = json.Unmarshal(data, &list)
	} else {
		err = json.Unmarshal(data, &list[0])
	}
	if err != nil {
		return nil, err
	}
	for _, pattern := range list {
		if pattern == "" {
			return nil, errors.New("a pattern is empty")
		}
		if strings.Contains(pattern, "${") {
			return nil, errors.New("policy variables are not supported")
		}
	}
	return list, nil
}

func anyMatches(patterns []string, name string) bool {
	for _, p := range patterns {
		if Match(p, name) {
			return true
		}
	}
	return false
}

// Match reports whether a name fits a pattern of * and ?. It goes back to the last * only, which suffices for * and ?, so that its time is bounded by
// the product of the lengths.
func Match(pattern, name string) bool {
	p, n, star, mark := 0, 0, -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
