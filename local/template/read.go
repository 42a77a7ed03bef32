package template

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	region  = "us-east-1"
	account = "123456789012"
)

// Options say how the stack is to be deployed.
type Options struct {
	Stack      string            // name of the stack; "bb" when empty
	Parameters map[string]string // instead of the template's defaults
	KeyIDs     map[string]string // what KMS called its keys, by logical id; made up where absent
}

// Read reads the template in a file.
func Read(file string, o Options) (*Template, error) {
	source, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read template: %w", err)
	}
	return Parse(file, source, o)
}

// Parse reads a template; file is the name for its errors.
func Parse(file string, source []byte, o Options) (*Template, error) {
	r := &reader{
		file:       file,
		stack:      o.Stack,
		parameters: map[string]*yaml.Node{},
		conditions: map[string]*condition{},
		resources:  map[string]*resource{},
		keyIDs:     o.KeyIDs,
	}
	if r.stack == "" {
		r.stack = "bb"
	}
	root, err := r.root(source)
	if err != nil {
		return nil, err
	}
	return r.template(root, o.Parameters)
}

// Parameters lists the names of the parameters that the template in a file declares.
func Parameters(file string) ([]string, error) {
	source, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read template: %w", err)
	}
	r := &reader{file: file}
	root, err := r.root(source)
	if err != nil {
		return nil, err
	}
	var names []string
	for key, value := range pairs(root) {
		if key.Value != "Parameters" {
			continue
		}
		for name := range pairs(value) {
			names = append(names, name.Value)
		}
	}
	return names, nil
}

// A reader holds what references are resolved against.
type reader struct {
	file       string
	stack      string
	parameters map[string]*yaml.Node
	conditions map[string]*condition
	resources  map[string]*resource
	order      []*resource
	keyIDs     map[string]string
	sources    []source   // of all functions
	schedules  []Schedule // of all functions
	globals    *yaml.Node // resolved properties of Globals.Function
}

// A refusal is what is wrong with a template, and where.
type refusal struct {
	file   string
	line   int
	reason error
}

// Error is one line, whatever line breaks the template's own words have.
func (e *refusal) Error() string {
	return fmt.Sprintf("%s:%d: %s", e.file, e.line, strings.ReplaceAll(e.reason.Error(), "\n", " "))
}

func (e *refusal) Unwrap() error { return e.reason }

func (r *reader) errorf(n *yaml.Node, format string, args ...any) error {
	return &refusal{r.file, n.Line, fmt.Errorf(format, args...)}
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

func (r *reader) root(source []byte) (*yaml.Node, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(source, &document); err != nil {
		text := strings.ReplaceAll(err.Error(), "\n", " ")
		if m := yamlLine.FindStringSubmatch(text); m != nil && m[1] != "" {
			return nil, fmt.Errorf("%s:%s: %s", r.file, m[1], m[2])
		}
		return nil, fmt.Errorf("%s: %s", r.file, text)
	}
	if len(document.Content) == 0 {
		return nil, fmt.Errorf("%s: the template is empty", r.file)
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, r.errorf(root, "a template is a mapping of sections")
	}
	return root, r.plain(root)
}

// plain refuses what CloudFormation refuses in any YAML: aliases and keys given twice. Without
// aliases a document is no larger than its text.
func (r *reader) plain(n *yaml.Node) error {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return r.errorf(n, "CloudFormation allows no YAML anchors and aliases")
	}
	if n.Kind == yaml.MappingNode {
		seen := map[string]bool{}
		for key := range pairs(n) {
			if key.Kind != yaml.ScalarNode {
				return r.errorf(key, "a key must be a word")
			}
			if seen[key.Value] {
				return r.errorf(key, "%s is given twice", key.Value)
			}
			seen[key.Value] = true
		}
	}
	for _, child := range n.Content {
		if err := r.plain(child); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) template(root *yaml.Node, overrides map[string]string) (*Template, error) {
	var parameters, conditions, globals, resources, outputs *yaml.Node
	err := r.fields(root, "the template", fields{
		"AWSTemplateFormatVersion": skipped,
		"Description":              skipped,
		"Metadata":                 skipped,
		"Transform":                r.transform,
		"Parameters":               &parameters,
		"Conditions":               &conditions,
		"Globals":                  &globals,
		"Resources":                &resources,
		"Outputs":                  &outputs,
	})
	if err != nil {
		return nil, err
	}
	if resources == nil {
		return nil, r.errorf(root, "the template has no Resources")
	}
	for _, step := range []func() error{
		func() error { return r.readParameters(parameters, overrides) },
		func() error { return r.readConditions(conditions) },
		func() error { return r.declare(resources) },
		func() error { return r.readGlobals(globals) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	t := &Template{Stack: r.stack, Region: region, Account: account}
	if err := r.readResources(t); err != nil {
		return nil, err
	}
	if err := r.joinSources(t); err != nil {
		return nil, err
	}
	t.Schedules = r.schedules
	return t, r.checkOutputs(outputs)
}

func (r *reader) transform(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode || n.Value != "AWS::Serverless-2016-10-31" {
		return r.errorf(n, "the only Transform understood is AWS::Serverless-2016-10-31")
	}
	return nil
}

func (r *reader) readGlobals(n *yaml.Node) error {
	if n == nil {
		return nil
	}
	return r.fields(n, "Globals", fields{"Function": func(n *yaml.Node) (err error) {
		r.globals, err = r.eval(n)
		return err
	}})
}

// checkOutputs resolves the outputs: nobody reads them here, but a broken one would fail the deployment.
func (r *reader) checkOutputs(n *yaml.Node) error {
	if n == nil {
		return nil
	}
	_, err := r.eval(n)
	return err
}
