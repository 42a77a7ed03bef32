// Package template reads a SAM template the way CloudFormation would deploy it, and yields what one
// machine needs to run it: the APIs and their routes, functions and what else invokes them, tables, queues,
// buckets, keys and custom resources.
//
// Parameters, conditions and intrinsic functions are resolved while reading, so that what comes out
// are plain values. Names that AWS would choose are made up and stable: the physical name of a
// resource is <stack>-<logical id>, its ARN has the account 123456789012.
//
// A property that would change how requests are answered and is not understood is refused with the
// file, the line and the reason. Properties that matter to AWS alone (tags, roles, encryption at
// rest) are listed as such where they are read, and skipped.
package template

import "time"

// A Template is a stack as it would be deployed.
type Template struct {
	Stack   string
	Region  string
	Account string

	API       *API   // the one without a base path; nil when the template has none
	Mapped    []*API // those with one, each with another
	Functions []Function
	Tables    []Table
	Custom    []CustomResource
	Queues    []Queue
	Buckets   []Bucket
	Sources   []EventSource
	Schedules []Schedule
	Keys      []Key
	Aliases   []Alias
}

// An API is an AWS::Serverless::Api with the routes that the functions' events add to it.
type API struct {
	LogicalID string
	ID        string // what AWS would make up, part of every method ARN
	Name      string
	Stage     string
	BasePath  string // in a domain of one's own, without slashes; empty for the root

	Routes           []Route
	CORS             *CORS // nil when OPTIONS is a method like any other
	BinaryMediaTypes []string
	GatewayResponses map[string]GatewayResponse // by response type
	Rate             float64                    // requests a second; 0 when the template sets none
	Burst            int
	AccessLogFormat  string // empty for no access log
}

// A Route is one method of one path, or every method where Method is "ANY".
type Route struct {
	Path       string
	Method     string
	Function   string // logical id
	Authorizer *Authorizer
}

// An Authorizer is a Lambda authorizer of type REQUEST whose answers are never cached.
type Authorizer struct {
	Name     string
	Function string // logical id
	// A request that lacks one of these is refused before the function is asked.
	IdentityHeaders []string
	IdentityQueries []string
}

// CORS is the answer to a preflight. Values are without the quotes that the template has.
type CORS struct {
	AllowOrigin      string
	AllowMethods     string // empty for the methods of the path
	AllowHeaders     string
	MaxAge           string
	AllowCredentials bool
}

// A GatewayResponse replaces what API Gateway says on its own. Status is 0 for the type's default.
type GatewayResponse struct {
	Status  int
	Headers []ResponseHeader
	Body    string // the application/json template; empty for the default
}

// A ResponseHeader has a static value or, where Source is set, one mapped from the request.
type ResponseHeader struct {
	Name   string
	Static string
	Source string // such as context.authorizer.x or method.request.header.X
}

// A Function is an AWS::Serverless::Function with Globals merged in.
type Function struct {
	LogicalID   string
	Name        string
	ARN         string
	Description string
	Memory      int // MB
	Concurrency int // that is reserved, and its bound; 0 for none
	Timeout     time.Duration
	Environment map[string]string
	Role        []Statement // what its role says; empty without a role in the template
}

// A CustomResource is what CloudFormation would have its function make at deployment.
type CustomResource struct {
	LogicalID  string
	Type       string
	Function   string // logical id
	Properties map[string]any
}

// A Queue is an AWS::SQS::Queue.
type Queue struct {
	LogicalID         string
	Name              string
	ARN               string
	URL               string // what Ref yields, with AWS's host
	VisibilityTimeout time.Duration
	Retention         time.Duration
	Delay             time.Duration
	DeadLetters       string // ARN of the queue for what was received too often; empty for none
	MaxReceives       int
	Key               string // KmsMasterKeyId; empty for a key of SQS's own
}

// A Bucket is an AWS::S3::Bucket.
type Bucket struct{ LogicalID, Name, ARN string }

// An EventSource is a function's event of type SQS.
type EventSource struct {
	Function        string // logical id
	Queue           string // ARN
	BatchSize       int
	Window          time.Duration // how long a batch is gathered
	ReportsFailures bool          // the answer says which messages failed
	MaxConcurrency  int           // 0 when the template sets none
}

// A Schedule is a function's event of type Schedule or ScheduleV2.
type Schedule struct {
	Function  string // logical id
	Name      string
	ARN       string
	Every     time.Duration
	Input     string // the event instead of EventBridge's own; empty for that
	Scheduler bool   // of EventBridge Scheduler, not a rule
}

// A Key is an AWS::KMS::Key.
type Key struct{ LogicalID, ID, ARN, Spec, Usage string }

// An Alias is an AWS::KMS::Alias; its name begins with alias/.
type Alias struct{ Name, KeyID string }

// A Table is an AWS::DynamoDB::Table.
type Table struct {
	LogicalID     string
	Name          string
	ARN           string
	Attributes    []Attribute
	Key           []KeyPart
	GlobalIndexes []Index
	LocalIndexes  []Index
	Throughput    *Throughput // nil when paid by request
	StreamView    string      // empty for no stream
	TTLAttribute  string      // empty when items do not lapse
}

// An Attribute is one that a key uses; Type is S, N or B.
type Attribute struct{ Name, Type string }

// A KeyPart is an attribute in a key; Kind is HASH or RANGE.
type KeyPart struct{ Attribute, Kind string }

// An Index is a secondary index.
type Index struct {
	Name       string
	Key        []KeyPart
	Projection string
	NonKey     []string
	Throughput *Throughput
}

// Throughput is provisioned capacity.
type Throughput struct{ Read, Write int }

// Function finds a function by its logical id.
func (t *Template) Function(logicalID string) (Function, bool) {
	for _, f := range t.Functions {
		if f.LogicalID == logicalID {
			return f, true
		}
	}
	return Function{}, false
}
