package template

import (
	"slices"

	"go.yaml.in/yaml/v3"
)

// A Statement is one of a role's inline policies. A condition lists, by operator and then by key, the
// values that are allowed.
type Statement struct {
	Deny       bool
	Actions    []string
	Resources  []string
	Conditions map[string]map[string][]string
}

// roleStatements reads the inline policies of the role that an ARN names.
func (r *reader) roleStatements(n *yaml.Node) ([]Statement, error) {
	i := slices.IndexFunc(r.order, func(d *resource) bool {
		if d.kind != roleKind || !d.met {
			return false
		}
		arn, err := r.attribute(n, d.id, "Arn")
		return err == nil && arn == n.Value
	})
	if n.Kind != yaml.ScalarNode || i < 0 {
		return nil, r.errorf(n, "%q is not the ARN of a role of this template", n.Value)
	}
	d := r.order[i]
	properties, err := r.resolved(d)
	if err != nil {
		return nil, err
	}
	var statements []Statement
	err = r.fields(properties, d.id, fields{
		"AssumeRolePolicyDocument": skipped,
		"Description":              skipped,
		"PermissionsBoundary":      skipped,
		"RoleName":                 skipped,
		"Tags":                     skipped,
		"Policies": func(n *yaml.Node) error {
			return r.each(n, "Policies", func(n *yaml.Node) error {
				return r.fields(n, "a policy", fields{
					"PolicyName":     skipped,
					"PolicyDocument": func(n *yaml.Node) error { return r.policyDocument(n, &statements) },
				})
			})
		},
	})
	return statements, err
}

func (r *reader) policyDocument(n *yaml.Node, statements *[]Statement) error {
	return r.fields(n, "PolicyDocument", fields{
		"Version": skipped,
		"Statement": func(n *yaml.Node) error {
			return r.each(n, "Statement", func(n *yaml.Node) error {
				s, err := r.statement(n)
				*statements = append(*statements, s)
				return err
			})
		},
	})
}

func (r *reader) statement(n *yaml.Node) (Statement, error) {
	s := Statement{}
	var effect string
	err := r.fields(n, "a statement", fields{
		"Sid":      skipped,
		"Effect":   &effect,
		"Action":   func(n *yaml.Node) (err error) { s.Actions, err = r.oneOrMore(n, "Action"); return err },
		"Resource": func(n *yaml.Node) (err error) { s.Resources, err = r.oneOrMore(n, "Resource"); return err },
		"Condition": func(n *yaml.Node) error {
			s.Conditions = map[string]map[string][]string{}
			for operator, keys := range pairs(n) {
				s.Conditions[operator.Value] = map[string][]string{}
				for key, values := range pairs(keys) {
					list, err := r.oneOrMore(values, key.Value)
					if err != nil {
						return err
					}
					s.Conditions[operator.Value][key.Value] = list
				}
			}
			return nil
		},
	})
	s.Deny = effect == "Deny"
	if err == nil && effect != "Allow" && effect != "Deny" {
		err = r.errorf(n, "Effect must be Allow or Deny")
	}
	return s, err
}

// oneOrMore reads what IAM lets be a string or a list of strings.
func (r *reader) oneOrMore(n *yaml.Node, name string) ([]string, error) {
	if n.Kind == yaml.ScalarNode {
		return []string{n.Value}, nil
	}
	return r.list(n, name)
}
