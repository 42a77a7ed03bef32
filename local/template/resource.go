package template

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A resource is a declaration in the Resources section.
type resource struct {
	id, kind   string
	at         *yaml.Node // its name, for the line
	properties *yaml.Node // unresolved; nil when there are none
	met        bool       // its condition is true
	naming     bool       // its name is being resolved, so asking again is a circle
}

// A kind is a resource type: which property names it, and its ARN as region, account and name.
type kind struct {
	nameProperty string
	arn          string
}

const (
	apiKind      = "AWS::Serverless::Api"
	functionKind = "AWS::Serverless::Function"
	tableKind    = "AWS::DynamoDB::Table"
	customKind   = "AWS::CloudFormation::CustomResource"
	queueKind    = "AWS::SQS::Queue"
	keyKind      = "AWS::KMS::Key"
	aliasKind    = "AWS::KMS::Alias"
	bucketKind   = "AWS::S3::Bucket"
	roleKind     = "AWS::IAM::Role"

	distributionKind = "AWS::CloudFront::Distribution"
)

// kinds are the types that may stand in a template. All but the first eight change nothing on one
// machine, but that a base path is read of its mapping; they are resolved, so that a broken reference is
// found, and then left alone.
var kinds = map[string]kind{
	apiKind:      {},
	functionKind: {"FunctionName", "arn:aws:lambda:%s:%s:function:%s"},
	tableKind:    {"TableName", "arn:aws:dynamodb:%s:%s:table/%s"},
	customKind:   {},
	queueKind:    {"QueueName", "arn:aws:sqs:%s:%s:%s"},
	keyKind:      {"", "arn:aws:kms:%s:%s:key/%s"},
	aliasKind:    {"AliasName", "arn:aws:kms:%s:%s:%s"},
	bucketKind:   {"BucketName", "arn:aws:s3:::%[3]s"},

	"AWS::ApiGateway::Account":               {},
	mappingKind:                              {},
	"AWS::ApiGateway::DomainName":            {},
	"AWS::Route53::RecordSet":                {},
	"AWS::WAFv2::WebACL":                     {},
	"AWS::WAFv2::WebACLAssociation":          {},
	"AWS::CloudFront::CachePolicy":           {},
	distributionKind:                         {},
	"AWS::CloudFront::OriginAccessControl":   {},
	"AWS::CloudFront::ResponseHeadersPolicy": {},
	"AWS::CloudWatch::Alarm":                 {"AlarmName", "arn:aws:cloudwatch:%s:%s:alarm:%s"},
	"AWS::CloudWatch::Dashboard":             {},
	"AWS::IAM::ManagedPolicy":                {},
	"AWS::IAM::Policy":                       {},
	roleKind:                                 {"RoleName", "arn:aws:iam::%[2]s:role/%[3]s"},
	"AWS::Lambda::EventInvokeConfig":         {},
	"AWS::Lambda::Permission":                {},
	"AWS::Logs::LogGroup":                    {"LogGroupName", "arn:aws:logs:%s:%s:log-group:%s:*"},
	"AWS::Logs::MetricFilter":                {},
	"AWS::S3::BucketPolicy":                  {},
	"AWS::SQS::QueuePolicy":                  {},
}

// declare notes every resource, before any of them is resolved.
func (r *reader) declare(n *yaml.Node) error {
	for name, declaration := range pairs(n) {
		d := &resource{id: name.Value, at: name, met: true}
		err := r.fields(declaration, d.id, fields{
			"Type":                &d.kind,
			"Properties":          &d.properties,
			"DependsOn":           skipped, // custom resources run last, in the order of the template
			"DeletionPolicy":      skipped,
			"UpdateReplacePolicy": skipped,
			"Metadata":            skipped,
			"Condition": func(n *yaml.Node) (err error) {
				d.met, err = r.met(n, n.Value)
				return err
			},
		})
		if err != nil {
			return err
		}
		if _, known := kinds[d.kind]; !known && !isCustom(d.kind) {
			return r.errorf(name, "%s: resources of type %q are not run on one machine", d.id, d.kind)
		}
		r.resources[d.id] = d
		r.order = append(r.order, d)
	}
	return nil
}

func (r *reader) find(at *yaml.Node, id string) (*resource, error) {
	d, found := r.resources[id]
	if !found {
		return nil, r.errorf(at, "there is no parameter or resource %q", id)
	}
	if !d.met {
		return nil, r.errorf(at, "the stack has no %s, since its condition is false", id)
	}
	return d, nil
}

// physical is the name by which AWS would know a resource: what Ref yields.
func (r *reader) physical(at *yaml.Node, id string) (string, error) {
	d, err := r.find(at, id)
	if err != nil {
		return "", err
	}
	if d.kind == apiKind {
		return r.apiID(id), nil
	}
	if given, found := r.keyIDs[id]; found && d.kind == keyKind {
		return given, nil
	}
	property := kinds[d.kind].nameProperty
	if d.properties != nil && property != "" {
		for key, value := range pairs(d.properties) {
			if key.Value == property {
				return r.givenName(at, d, value)
			}
		}
	}
	if d.kind == bucketKind { // the names that S3 allows have no capitals
		return strings.ToLower(r.stack + "-" + id), nil
	}
	return r.stack + "-" + id, nil
}

func (r *reader) givenName(at *yaml.Node, d *resource, value *yaml.Node) (string, error) {
	if d.naming {
		return "", r.errorf(at, "the name of %s depends on itself", d.id)
	}
	d.naming = true
	defer func() { d.naming = false }()
	return r.text(value, "the name of "+d.id)
}

// apiID makes up the ten characters that API Gateway would.
func (r *reader) apiID(id string) string {
	sum := sha256.Sum256([]byte(r.stack + "/" + id))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:10]
}

// attribute resolves GetAtt.
func (r *reader) attribute(at *yaml.Node, id, attribute string) (string, error) {
	name, err := r.physical(at, id)
	if err != nil {
		return "", err
	}
	kind := r.resources[id].kind
	arn := kinds[kind].arn
	switch {
	case attribute == "Arn" && arn != "":
		return fmt.Sprintf(arn, region, account, name), nil
	case attribute == "StreamArn" && kind == tableKind:
		return fmt.Sprintf(arn, region, account, name) + "/stream/local", nil
	case attribute == "QueueUrl" && kind == queueKind:
		return queueURL(name), nil
	case attribute == "QueueName" && kind == queueKind, attribute == "KeyId" && kind == keyKind:
		return name, nil
	case attribute == "RootResourceId" && kind == apiKind:
		return name[:5], nil
	case attribute == "DomainName" && kind == bucketKind:
		return name + ".s3.amazonaws.com", nil
	case attribute == "RegionalDomainName" && kind == bucketKind:
		return name + ".s3." + region + ".amazonaws.com", nil
	case attribute == "DomainName" && kind == distributionKind:
		return strings.ToLower(name) + ".cloudfront.net", nil
	case attribute == "Id" && strings.HasPrefix(kind, "AWS::CloudFront::"):
		return name, nil
	}
	return "", r.errorf(at, "GetAtt %s.%s is not understood here", id, attribute)
}

// functionOf finds the function that an ARN names.
func (r *reader) functionOf(n *yaml.Node) (string, error) {
	for _, d := range r.order {
		if d.kind != functionKind || !d.met {
			continue
		}
		arn, err := r.attribute(n, d.id, "Arn")
		if err != nil {
			return "", err
		}
		// A function has one version here, so its alias is the function.
		if n.Kind == yaml.ScalarNode && (n.Value == arn || strings.HasPrefix(n.Value, arn+":")) {
			return d.id, nil
		}
	}
	return "", r.errorf(n, "%q is not the ARN of a function of this template", n.Value)
}

// readResources reads the APIs first, since the functions' events refer to them.
func (r *reader) readResources(t *Template) error {
	var apis apiReaders
	for _, d := range r.order {
		if d.kind != apiKind || !d.met {
			continue
		}
		properties, err := r.resolved(d)
		if err != nil {
			return err
		}
		api := &apiReader{reader: r, api: &API{LogicalID: d.id, ID: r.apiID(d.id)}}
		if err := api.read(properties); err != nil {
			return err
		}
		apis = append(apis, api)
	}
	if err := r.readBasePaths(apis); err != nil {
		return err
	}
	for _, api := range apis {
		if err := t.place(api.api); err != nil {
			return r.errorf(r.resources[api.api.LogicalID].at, "%w", err)
		}
	}
	for _, d := range r.order {
		if !d.met || d.kind == apiKind {
			continue
		}
		if err := r.readResource(t, apis, d); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) readResource(t *Template, apis apiReaders, d *resource) error {
	properties, err := r.resolved(d)
	if err != nil {
		return err
	}
	switch {
	case d.kind == functionKind:
		f, err := r.function(apis, d, properties)
		if err != nil {
			return err
		}
		t.Functions = append(t.Functions, f)
	case d.kind == tableKind:
		table, err := r.table(d, properties)
		if err != nil {
			return err
		}
		t.Tables = append(t.Tables, table)
	case d.kind == queueKind:
		queue, err := r.queue(d, properties)
		if err != nil {
			return err
		}
		t.Queues = append(t.Queues, queue)
	case d.kind == bucketKind:
		bucket, err := r.bucket(d, properties)
		if err != nil {
			return err
		}
		t.Buckets = append(t.Buckets, bucket)
	case d.kind == keyKind:
		key, err := r.key(d, properties)
		if err != nil {
			return err
		}
		t.Keys = append(t.Keys, key)
	case d.kind == aliasKind:
		alias, err := r.alias(d, properties)
		if err != nil {
			return err
		}
		t.Aliases = append(t.Aliases, alias)
	case isCustom(d.kind):
		custom, err := r.custom(d, properties)
		if err != nil {
			return err
		}
		t.Custom = append(t.Custom, custom)
	}
	return nil
}

// resolved yields the properties without intrinsic functions; an empty mapping for none.
func (r *reader) resolved(d *resource) (*yaml.Node, error) {
	if d.properties == nil {
		return &yaml.Node{Kind: yaml.MappingNode, Line: d.at.Line}, nil
	}
	return r.eval(d.properties)
}

func isCustom(kind string) bool { return kind == customKind || strings.HasPrefix(kind, "Custom::") }

// custom keeps the properties as CloudFormation sends them: every scalar is a string.
func (r *reader) custom(d *resource, properties *yaml.Node) (CustomResource, error) {
	c := CustomResource{LogicalID: d.id, Type: d.kind, Properties: map[string]any{}}
	for key, value := range pairs(properties) {
		c.Properties[key.Value] = stringly(value)
		if key.Value != "ServiceToken" {
			continue
		}
		var err error
		if c.Function, err = r.functionOf(value); err != nil {
			return c, err
		}
	}
	if c.Function == "" {
		return c, r.errorf(d.at, "%s has no ServiceToken", d.id)
	}
	return c, nil
}

func stringly(n *yaml.Node) any {
	switch n.Kind {
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, item := range n.Content {
			list[i] = stringly(item)
		}
		return list
	case yaml.MappingNode:
		object := map[string]any{}
		for key, value := range pairs(n) {
			object[key.Value] = stringly(value)
		}
		return object
	}
	return n.Value
}
