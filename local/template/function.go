package template

import (
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"
)

func (r *reader) function(apis apiReaders, d *resource, own *yaml.Node) (Function, error) {
	f := Function{LogicalID: d.id, Memory: 128}
	timeout := 3 // Lambda's default, in seconds
	var runtime string
	var events *yaml.Node
	properties := own
	if r.globals != nil {
		properties = merged(r.globals, own)
	}
	err := r.fields(properties, d.id, fields{
		"Description": &f.Description,
		"Environment": func(n *yaml.Node) error {
			return r.fields(n, "Environment", fields{"Variables": &f.Environment})
		},
		"Events":     &events,
		"MemorySize": &f.Memory,

		"ReservedConcurrentExecutions": &f.Concurrency,

		"Role":    func(n *yaml.Node) (err error) { f.Role, err = r.roleStatements(n); return err },
		"Runtime": &runtime,
		"Timeout": &timeout,

		"Architectures":                 skipped, // build/ holds what runs on this machine
		"AutoPublishAlias":              skipped, // there is one version
		"AutoPublishAliasAllProperties": skipped,
		"CodeUri":                       skipped,
		"DeploymentPreference":          skipped,
		"EphemeralStorage":              skipped,
		"EventInvokeConfig":             skipped,
		"FunctionName":                  skipped, // read where names are resolved
		"Handler":                       skipped, // bootstrap decides
		"KmsKeyArn":                     skipped,
		"LoggingConfig":                 skipped,
		"PermissionsBoundary":           skipped,
		"Policies":                      skipped,
		"Tags":                          skipped,
		"Tracing":                       skipped,
	})
	if err != nil {
		return f, err
	}
	if runtime != "provided.al2023" && runtime != "provided.al2" {
		return f, r.errorf(d.at, "%s: runtime %q is not run here, only provided.al2023", d.id, runtime)
	}
	if timeout < 1 || timeout > 900 || f.Memory < 128 || f.Memory > 10240 {
		return f, r.errorf(d.at, "%s: Lambda allows 1 to 900 seconds and 128 to 10240 MB", d.id)
	}
	f.Timeout = time.Duration(timeout) * time.Second
	if f.Name, err = r.physical(d.at, d.id); err != nil {
		return f, err
	}
	f.ARN = fmt.Sprintf(kinds[functionKind].arn, region, account, f.Name)
	if events == nil {
		return f, nil
	}
	return f, r.events(apis, d, events)
}

// merged lays own over globals as SAM does: mappings are merged, lists joined, values replaced.
func merged(globals, own *yaml.Node) *yaml.Node {
	if globals.Kind != own.Kind || own.Kind == yaml.ScalarNode {
		return own
	}
	both := &yaml.Node{Kind: own.Kind, Line: own.Line}
	if own.Kind == yaml.SequenceNode {
		both.Content = append(append(both.Content, globals.Content...), own.Content...)
		return both
	}
	mine := map[string]*yaml.Node{}
	for key, value := range pairs(own) {
		mine[key.Value] = value
	}
	for key, value := range pairs(globals) {
		if over, found := mine[key.Value]; found {
			value = merged(value, over)
			delete(mine, key.Value)
		}
		both.Content = append(both.Content, key, value)
	}
	for key, value := range pairs(own) {
		if _, left := mine[key.Value]; left {
			both.Content = append(both.Content, key, value)
		}
	}
	return both
}
