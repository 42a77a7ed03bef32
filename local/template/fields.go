package template

import (
	"iter"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// fields names every property that a mapping may have, and where its value goes: a pointer to a
// string, int, float64, bool, []string, map[string]string or *yaml.Node, a function, or skipped.
type fields map[string]any

// skipped is a property that changes nothing on this machine.
var skipped = struct{}{}

// pairs yields the keys and values of a mapping, nothing for other nodes.
func pairs(n *yaml.Node) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(key, value *yaml.Node) bool) {
		if n.Kind != yaml.MappingNode {
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if !yield(n.Content[i], n.Content[i+1]) {
				return
			}
		}
	}
}

// fields reads a mapping into targets. A property without a target is refused.
func (r *reader) fields(n *yaml.Node, what string, targets fields) error {
	if n.Kind != yaml.MappingNode {
		return r.errorf(n, "%s must be a mapping", what)
	}
	for key, value := range pairs(n) {
		target, known := targets[key.Value]
		if !known {
			return r.errorf(key, "%s: %s is not understood here", what, key.Value)
		}
		if err := r.set(value, key.Value, target); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) set(n *yaml.Node, name string, target any) (err error) {
	switch target := target.(type) {
	case struct{}:
	case func(*yaml.Node) error:
		return target(n)
	case **yaml.Node:
		*target = n
	case *[]string:
		*target, err = r.list(n, name)
	case *map[string]string:
		*target, err = r.strings(n, name)
	default:
		return r.setScalar(n, name, target)
	}
	return err
}

// setScalar converts as CloudFormation does: a number or a boolean may be written as a string.
func (r *reader) setScalar(n *yaml.Node, name string, target any) error {
	if n.Kind != yaml.ScalarNode {
		return r.errorf(n, "%s must be one value", name)
	}
	var err error
	switch target := target.(type) {
	case *string:
		*target = n.Value
	case *int:
		*target, err = strconv.Atoi(n.Value)
	case *float64:
		*target, err = strconv.ParseFloat(n.Value, 64)
	case *bool:
		*target, err = strconv.ParseBool(n.Value)
	}
	if err != nil {
		return r.errorf(n, "%s: %q is not a valid value", name, n.Value)
	}
	return nil
}

func (r *reader) list(n *yaml.Node, name string) ([]string, error) {
	if n.Kind != yaml.SequenceNode {
		return nil, r.errorf(n, "%s must be a list", name)
	}
	values := make([]string, len(n.Content))
	for i, item := range n.Content {
		if err := r.setScalar(item, name, &values[i]); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func (r *reader) strings(n *yaml.Node, name string) (map[string]string, error) {
	if n.Kind != yaml.MappingNode {
		return nil, r.errorf(n, "%s must be a mapping", name)
	}
	values := map[string]string{}
	for key, value := range pairs(n) {
		var text string
		if err := r.setScalar(value, key.Value, &text); err != nil {
			return nil, err
		}
		values[key.Value] = text
	}
	return values, nil
}

// quoted takes the quotes off a static value of API Gateway, such as 'no-store'.
func (r *reader) quoted(n *yaml.Node, name string) (string, error) {
	v := n.Value
	if n.Kind != yaml.ScalarNode || len(v) < 2 || v[0] != '\'' || v[len(v)-1] != '\'' {
		return "", r.errorf(n, "%s must be quoted twice, such as \"'value'\"", name)
	}
	return v[1 : len(v)-1], nil
}

// each reads the items of a list of mappings.
func (r *reader) each(n *yaml.Node, name string, read func(*yaml.Node) error) error {
	if n.Kind != yaml.SequenceNode {
		return r.errorf(n, "%s must be a list", name)
	}
	for _, item := range n.Content {
		if err := read(item); err != nil {
			return err
		}
	}
	return nil
}
