package template

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// noValue is what !Ref AWS::NoValue resolves to: the property or item around it disappears.
var noValue = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}

// intrinsic splits a call of an intrinsic function, in its short (!Sub x) or long (Fn::Sub: x) form.
func intrinsic(n *yaml.Node) (name string, argument *yaml.Node, ok bool) {
	if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
		argument := *n
		argument.Tag = ""
		return n.Tag[1:], &argument, true
	}
	if n.Kind != yaml.MappingNode || len(n.Content) != 2 {
		return "", nil, false
	}
	key := n.Content[0].Value
	if name, found := strings.CutPrefix(key, "Fn::"); found {
		return name, n.Content[1], true
	}
	return key, n.Content[1], key == "Ref"
}

// eval resolves the intrinsic functions in a node. The result shares nothing that is changed later.
func (r *reader) eval(n *yaml.Node) (*yaml.Node, error) {
	if name, argument, ok := intrinsic(n); ok {
		return r.call(n, name, argument)
	}
	if n.Kind == yaml.ScalarNode {
		return n, nil
	}
	resolved := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Line: n.Line}
	if n.Kind == yaml.SequenceNode {
		for _, item := range n.Content {
			value, err := r.eval(item)
			if err != nil {
				return nil, err
			}
			if value != noValue {
				resolved.Content = append(resolved.Content, value)
			}
		}
		return resolved, nil
	}
	for key, item := range pairs(n) {
		value, err := r.eval(item)
		if err != nil {
			return nil, err
		}
		if value != noValue {
			resolved.Content = append(resolved.Content, key, value)
		}
	}
	return resolved, nil
}

func (r *reader) call(at *yaml.Node, name string, argument *yaml.Node) (*yaml.Node, error) {
	switch name {
	case "Ref":
		return r.ref(argument)
	case "GetAtt":
		return r.getAtt(argument)
	case "Sub":
		return r.sub(argument)
	case "Join":
		return r.join(argument)
	case "If":
		return r.choose(argument)
	}
	return nil, r.errorf(at, "the intrinsic function %s is not understood here", name)
}

// text evaluates a node that must become one string.
func (r *reader) text(n *yaml.Node, what string) (string, error) {
	value, err := r.eval(n)
	if err != nil {
		return "", err
	}
	if value.Kind != yaml.ScalarNode || value == noValue {
		return "", r.errorf(n, "%s must be one value", what)
	}
	return value.Value, nil
}

// items checks the arguments of a function that takes a list of a given length.
func (r *reader) items(n *yaml.Node, name string, count int) ([]*yaml.Node, error) {
	if n.Kind != yaml.SequenceNode || len(n.Content) != count {
		return nil, r.errorf(n, "%s takes a list of %d", name, count)
	}
	return n.Content, nil
}

func (r *reader) ref(n *yaml.Node) (*yaml.Node, error) {
	if n.Kind != yaml.ScalarNode {
		return nil, r.errorf(n, "Ref takes a name")
	}
	return r.named(n, n.Value)
}

// named resolves a parameter, a pseudo parameter or a resource.
func (r *reader) named(at *yaml.Node, name string) (*yaml.Node, error) {
	switch name {
	case "AWS::Region":
		return scalar(at, region), nil
	case "AWS::AccountId":
		return scalar(at, account), nil
	case "AWS::Partition":
		return scalar(at, "aws"), nil
	case "AWS::StackName":
		return scalar(at, r.stack), nil
	case "AWS::URLSuffix":
		return scalar(at, "amazonaws.com"), nil
	case "AWS::NoValue":
		return noValue, nil
	}
	if value, found := r.parameters[name]; found {
		return value, nil
	}
	if id, generated, found := strings.Cut(name, "."); found {
		return r.generated(at, id, generated)
	}
	id, err := r.physical(at, name)
	if err != nil {
		return nil, err
	}
	if r.resources[name].kind == queueKind {
		return scalar(at, queueURL(id)), nil
	}
	return scalar(at, id), nil
}

// generated resolves what SAM makes beside a resource.
func (r *reader) generated(at *yaml.Node, id, what string) (*yaml.Node, error) {
	d, err := r.find(at, id)
	switch {
	case err != nil:
		return nil, err
	case d.kind == functionKind && what == "Alias":
		arn, err := r.attribute(at, id, "Arn")
		return scalar(at, arn), err
	case d.kind == apiKind && what == "Stage":
		return r.stageName(d)
	}
	return nil, r.errorf(at, "Ref %s.%s is not understood here", id, what)
}

func (r *reader) stageName(api *resource) (*yaml.Node, error) {
	for key, value := range pairs(api.properties) {
		if key.Value == "StageName" {
			return r.eval(value)
		}
	}
	return nil, r.errorf(api.at, "%s has no StageName", api.id)
}

func (r *reader) getAtt(n *yaml.Node) (*yaml.Node, error) {
	name, attribute, _ := strings.Cut(n.Value, ".")
	if n.Kind == yaml.SequenceNode {
		parts, err := r.items(n, "GetAtt", 2)
		if err != nil {
			return nil, err
		}
		name, attribute = parts[0].Value, parts[1].Value
	}
	value, err := r.attribute(n, name, attribute)
	if err != nil {
		return nil, err
	}
	return scalar(n, value), nil
}

func (r *reader) sub(n *yaml.Node) (*yaml.Node, error) {
	text, local := n, map[string]*yaml.Node{}
	if n.Kind == yaml.SequenceNode {
		parts, err := r.items(n, "Sub", 2)
		if err != nil {
			return nil, err
		}
		text = parts[0]
		for key, value := range pairs(parts[1]) {
			local[key.Value] = value
		}
	}
	if text.Kind != yaml.ScalarNode {
		return nil, r.errorf(n, "Sub takes a string")
	}
	var b strings.Builder
	rest := text.Value
	for {
		before, after, found := strings.Cut(rest, "${")
		b.WriteString(before)
		if !found {
			return scalar(n, b.String()), nil
		}
		name, tail, closed := strings.Cut(after, "}")
		if !closed {
			return nil, r.errorf(n, "Sub: ${ without its }")
		}
		rest = tail
		value, err := r.variable(n, name, local)
		if err != nil {
			return nil, err
		}
		b.WriteString(value)
	}
}

// variable resolves what stands between the braces of ${...}.
func (r *reader) variable(at *yaml.Node, name string, local map[string]*yaml.Node) (string, error) {
	if literal, found := strings.CutPrefix(name, "!"); found {
		return "${" + literal + "}", nil
	}
	name = strings.TrimSpace(name)
	if value, found := local[name]; found {
		return r.text(value, name)
	}
	if id, attribute, found := strings.Cut(name, "."); found {
		return r.attribute(at, id, attribute)
	}
	value, err := r.named(at, name)
	if err != nil {
		return "", err
	}
	if value.Kind != yaml.ScalarNode || value == noValue {
		return "", r.errorf(at, "Sub: %s is not one value", name)
	}
	return value.Value, nil
}

func (r *reader) join(n *yaml.Node) (*yaml.Node, error) {
	parts, err := r.items(n, "Join", 2)
	if err != nil {
		return nil, err
	}
	list, err := r.eval(parts[1])
	if err != nil {
		return nil, err
	}
	values, err := r.list(list, "Join")
	if err != nil {
		return nil, err
	}
	return scalar(n, strings.Join(values, parts[0].Value)), nil
}

func (r *reader) choose(n *yaml.Node) (*yaml.Node, error) {
	parts, err := r.items(n, "If", 3)
	if err != nil {
		return nil, err
	}
	met, err := r.met(parts[0], parts[0].Value)
	if err != nil {
		return nil, err
	}
	if met {
		return r.eval(parts[1])
	}
	return r.eval(parts[2])
}
