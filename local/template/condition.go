package template

import "go.yaml.in/yaml/v3"

// A condition is evaluated when it is first asked for.
type condition struct {
	node             *yaml.Node
	value, done, now bool // now: being evaluated, so asking again is a circle
}

func (r *reader) readConditions(n *yaml.Node) error {
	if n == nil {
		return nil
	}
	for name, node := range pairs(n) {
		r.conditions[name.Value] = &condition{node: node}
	}
	for name := range pairs(n) {
		if _, err := r.met(name, name.Value); err != nil {
			return err
		}
	}
	return nil
}

// met tells whether a named condition is true.
func (r *reader) met(at *yaml.Node, name string) (bool, error) {
	c, found := r.conditions[name]
	if !found {
		return false, r.errorf(at, "there is no condition %q", name)
	}
	if c.done {
		return c.value, nil
	}
	if c.now {
		return false, r.errorf(at, "condition %s depends on itself", name)
	}
	c.now = true
	value, err := r.test(c.node)
	c.value, c.done, c.now = value, err == nil, false
	return value, err
}

func (r *reader) test(n *yaml.Node) (bool, error) {
	name, argument, ok := intrinsic(n)
	if !ok && n.Kind == yaml.MappingNode && len(n.Content) == 2 && n.Content[0].Value == "Condition" {
		name, argument, ok = "Condition", n.Content[1], true
	}
	if !ok {
		return false, r.errorf(n, "a condition is a call of Equals, Not, And, Or or Condition")
	}
	switch name {
	case "Condition":
		return r.met(argument, argument.Value)
	case "Equals":
		return r.equals(argument)
	case "Not":
		parts, err := r.items(argument, "Not", 1)
		if err != nil {
			return false, err
		}
		value, err := r.test(parts[0])
		return !value, err
	case "And":
		return r.all(argument, true)
	case "Or":
		value, err := r.all(argument, false)
		return !value, err
	}
	return false, r.errorf(n, "%s is not a condition function", name)
}

func (r *reader) equals(n *yaml.Node) (bool, error) {
	parts, err := r.items(n, "Equals", 2)
	if err != nil {
		return false, err
	}
	left, err := r.text(parts[0], "Equals")
	if err != nil {
		return false, err
	}
	right, err := r.text(parts[1], "Equals")
	return left == right, err
}

// all tells whether every part has the value. Every part is evaluated, so that a broken one is found.
func (r *reader) all(n *yaml.Node, value bool) (bool, error) {
	if n.Kind != yaml.SequenceNode || len(n.Content) < 2 || len(n.Content) > 10 {
		return false, r.errorf(n, "And and Or take two to ten conditions")
	}
	every := true
	for _, part := range n.Content {
		got, err := r.test(part)
		if err != nil {
			return false, err
		}
		every = every && got == value
	}
	return every, nil
}
