package template

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A parameter is a declaration in the Parameters section.
type parameter struct {
	kind, fallback       string
	hasDefault           bool
	pattern              string
	allowed              []string
	minLength, maxLength *int
	minValue, maxValue   *float64
}

func (r *reader) readParameters(n *yaml.Node, overrides map[string]string) error {
	left := maps.Clone(overrides)
	if n != nil {
		for name, declaration := range pairs(n) {
			p, err := r.parameter(name.Value, declaration)
			if err != nil {
				return err
			}
			value, given := overrides[name.Value]
			delete(left, name.Value)
			switch {
			case !given && !p.hasDefault:
				return r.errorf(name, "parameter %s has no default and was given no value", name.Value)
			case !given:
				value = p.fallback
			}
			if err := r.checkParameter(name, p, value); err != nil {
				return err
			}
			r.parameters[name.Value] = parameterNode(name, p, value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		return r.errorf(&yaml.Node{Line: 1}, "the template declares no parameter %s", name)
	}
	return nil
}

func (r *reader) parameter(name string, n *yaml.Node) (parameter, error) {
	var p parameter
	var minLength, maxLength int
	var minValue, maxValue float64
	optional := func(set func(), target any) func(*yaml.Node) error {
		return func(n *yaml.Node) error {
			set()
			return r.setScalar(n, name, target)
		}
	}
	err := r.fields(n, name, fields{
		"Type":                  &p.kind,
		"Default":               optional(func() { p.hasDefault = true }, &p.fallback),
		"AllowedPattern":        &p.pattern,
		"AllowedValues":         &p.allowed,
		"MinLength":             optional(func() { p.minLength = &minLength }, &minLength),
		"MaxLength":             optional(func() { p.maxLength = &maxLength }, &maxLength),
		"MinValue":              optional(func() { p.minValue = &minValue }, &minValue),
		"MaxValue":              optional(func() { p.maxValue = &maxValue }, &maxValue),
		"ConstraintDescription": skipped,
		"Description":           skipped,
		"NoEcho":                skipped,
	})
	if err != nil {
		return p, err
	}
	switch p.kind {
	case "String", "Number", "CommaDelimitedList", "List<Number>":
		return p, nil
	}
	return p, r.errorf(n, "parameter %s: type %q is not understood", name, p.kind)
}

// checkParameter names the parameter and the law, never the value: it may be a password.
func (r *reader) checkParameter(name *yaml.Node, p parameter, value string) error {
	refuse := func(law string, args ...any) error {
		return r.errorf(name, "parameter "+name.Value+" must "+law, args...)
	}
	if p.pattern != "" {
		// CloudFormation matches the whole value.
		pattern, err := regexp.Compile(`^(?:` + p.pattern + `)$`)
		if err != nil {
			return refuse("have a valid AllowedPattern: %w", err)
		}
		if !pattern.MatchString(value) {
			return refuse("match %s", p.pattern)
		}
	}
	if p.allowed != nil && !slices.Contains(p.allowed, value) {
		return refuse("be one of %s", strings.Join(p.allowed, ", "))
	}
	if p.minLength != nil && len(value) < *p.minLength || p.maxLength != nil && len(value) > *p.maxLength {
		return refuse("have a length within its bounds")
	}
	if p.kind != "Number" {
		return nil
	}
	number, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return refuse("be a number")
	}
	if p.minValue != nil && number < *p.minValue || p.maxValue != nil && number > *p.maxValue {
		return refuse("be a number within its bounds")
	}
	return nil
}

func parameterNode(name *yaml.Node, p parameter, value string) *yaml.Node {
	if p.kind == "String" || p.kind == "Number" {
		return scalar(name, value)
	}
	list := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Line: name.Line}
	for item := range strings.SplitSeq(value, ",") {
		list.Content = append(list.Content, scalar(name, strings.TrimSpace(item)))
	}
	return list
}

// scalar is a resolved string, at the line of the node it came from.
func scalar(at *yaml.Node, value string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value, Line: at.Line}
}
