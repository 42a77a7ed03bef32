package template_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"cjj365.cc/bb/local/template"
)

// The product's own template: every property in it is understood, and the routes are these.
func TestTheStack(t *testing.T) {
	got, err := template.Read("../../template.yaml", template.Options{Parameters: map[string]string{
		"Stage":             "local",
		"MailFrom":          "bb@localhost.test",
		"PublicURL":         "http://127.0.0.1:8080",
		"FirstUserEmail":    "admin@example.test",
		"FirstUserPassword": "secret",
		"ThrottleRate":      "10000",
		"CorsOrigin":        "https://console.example",
	}})
	if err != nil {
		t.Fatal(err)
	}
	var routes []string
	for _, r := range got.API.Routes {
		authorizer := "NONE"
		if r.Authorizer != nil {
			authorizer = r.Authorizer.Function
		}
		routes = append(routes, fmt.Sprint(r.Method, " ", r.Path, " ", r.Function, " ", authorizer))
	}
	for _, want := range []string{
		"ANY /auth Auth NONE",
		"ANY /auth/{proxy+} Auth NONE",
		"ANY /apiv1/users/{user_id}/apikeys ApiKeys Authorizer",
		"ANY /apiv1/users/{user_id}/apikeys/{apikey_id} ApiKeys Authorizer",
		"ANY /apiv1/me Me Authorizer",
		"ANY /health Health NONE",
	} {
		if !slices.Contains(routes, want) {
			t.Errorf("no route %s in\n%s", want, strings.Join(routes, "\n"))
		}
	}
	auth, _ := got.Function("Auth")
	if auth.Name != "bb-Auth" || auth.Memory != 512 || auth.Timeout != 10*time.Second ||
		auth.Environment["STAGE"] != "local" || auth.Environment["CREDENTIAL_TABLE"] != "bb-CredentialTable" {
		t.Errorf("the function Auth: %+v", auth)
	}
	api := got.API
	if api.Stage != "local" || api.Rate != 10000 || api.CORS.AllowOrigin != "https://console.example" || !api.CORS.AllowCredentials ||
		api.GatewayResponses["AUTHORIZER_FAILURE"].Status != 503 || !strings.HasPrefix(api.AccessLogFormat, `{"time":"$context.`) {
		t.Errorf("the API: stage %s, rate %v, CORS %+v, access log %s", api.Stage, api.Rate, api.CORS, api.AccessLogFormat)
	}
	if len(got.Mapped) != 1 || got.Mapped[0].LogicalID != "PkiApi" || got.Mapped[0].BasePath != "pki" || got.Mapped[0].Stage != "local" ||
		!slices.Equal(got.Mapped[0].BinaryMediaTypes, []string{"*/*"}) || got.Mapped[0].CORS != nil {
		t.Errorf("the APIs behind a base path: %+v", got.Mapped)
	}
	equal(t, "the buckets", got.Buckets, []template.Bucket{{LogicalID: "PkiBucket", Name: "bb-pkibucket", ARN: "arn:aws:s3:::bb-pkibucket"}})
	if len(got.Tables) != 2 || got.Tables[0].TTLAttribute != "ttl" || len(got.Tables[0].Key) != 2 {
		t.Errorf("the tables: %+v", got.Tables)
	}
	if len(got.Custom) != 1 || got.Custom[0].Function != "FirstUser" || got.Custom[0].Properties["Email"] != "admin@example.test" {
		t.Errorf("the custom resources: %+v", got.Custom)
	}
}

const api = `
  Api:
    Type: AWS::Serverless::Api
    Properties:
      StageName: test
`

// stack wraps resources in a template with parameters, conditions and one function's defaults.
func stack(resources string) string {
	return `Transform: AWS::Serverless-2016-10-31
Parameters:
  Word: {Type: String, Default: word}
  Empty: {Type: String, Default: ""}
  Count: {Type: Number, Default: 3, MinValue: 1, MaxValue: 9}
  List: {Type: CommaDelimitedList, Default: "a, b"}
Conditions:
  Yes: !Equals [!Ref Word, word]
  "No": !Not [!Condition Yes]
  Both: !And [!Condition Yes, !Not [!Condition "No"]]
  Either: !Or [{Condition: "No"}, {"Fn::Equals": [{Ref: Empty}, ""]}]
Globals:
  Function: {Runtime: provided.al2023, Timeout: 5, Environment: {Variables: {A: global, B: global}}}
Resources:
` + resources
}

func parse(text string) (*template.Template, error) {
	return template.Parse("t.yaml", []byte(text), template.Options{Stack: "s"})
}

// Each expression is put into a function's environment.
func TestIntrinsicFunctions(t *testing.T) {
	for expression, want := range map[string]string{
		`!Ref Word`:                                  "word",
		`{Ref: Word}`:                                "word",
		`!Ref AWS::Region`:                           "us-east-1",
		`!Ref AWS::AccountId`:                        "123456789012",
		`!Ref AWS::Partition`:                        "aws",
		`!Ref AWS::StackName`:                        "s",
		`!Ref AWS::URLSuffix`:                        "amazonaws.com",
		`!Ref Table`:                                 "s-Table",
		`!Ref Named`:                                 "given-word",
		`!GetAtt Table.Arn`:                          "arn:aws:dynamodb:us-east-1:123456789012:table/s-Table",
		`!GetAtt [Other, Arn]`:                       "arn:aws:lambda:us-east-1:123456789012:function:s-Other",
		`{"Fn::GetAtt": [Other, Arn]}`:               "arn:aws:lambda:us-east-1:123456789012:function:s-Other",
		`!Sub "${Word}-${AWS::Region}-${Table.Arn}"`: "word-us-east-1-arn:aws:dynamodb:us-east-1:123456789012:table/s-Table",
		`!Sub ["${Mine}${Word}", {Mine: !Join ["-", [x, y]]}]`: "x-yword",
		`!Sub "${!Literal} $ $5"`:                              "${Literal} $ $5",
		`{"Fn::Sub": "${Count}"}`:                              "3",
		`!Join [",", !Ref List]`:                               "a,b",
		`!Join ["", [a, !Ref "AWS::NoValue", !Ref Word]]`:      "aword",
		`!If [Yes, one, two]`:                                  "one",
		`!If ["No", one, two]`:                                 "two",
		`!If [Both, one, two]`:                                 "one",
		`!If [Either, one, two]`:                               "one",
		`{"Fn::If": ["No", one, !If [Yes, three, four]]}`:      "three",
		`!If ["No", one, !Ref "AWS::NoValue"]`:                 "global",
	} {
		got, err := parse(stack(`
  F:
    Type: AWS::Serverless::Function
    Properties: {Environment: {Variables: {A: ` + expression + `}}}
  Other: {Type: AWS::Serverless::Function}
  Named: {Type: AWS::DynamoDB::Table, Properties: {TableName: !Sub "given-${Word}", BillingMode: PAY_PER_REQUEST, KeySchema: [{AttributeName: pk, KeyType: HASH}]}}
  Table: {Type: AWS::DynamoDB::Table, Properties: {BillingMode: PAY_PER_REQUEST, KeySchema: [{AttributeName: pk, KeyType: HASH}]}}
`))
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		if env := got.Functions[0].Environment; env["A"] != want || env["B"] != "global" {
			t.Errorf("%s is %q, want %q", expression, env["A"], want)
		}
	}
}

func TestAResourceWhoseConditionIsFalseIsAbsent(t *testing.T) {
	got, err := parse(stack(`
  Kept: {Type: AWS::Serverless::Function, Condition: Yes}
  Gone: {Type: AWS::Serverless::Function, Condition: "No"}
`))
	if err != nil || len(got.Functions) != 1 || got.Functions[0].LogicalID != "Kept" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestParameters(t *testing.T) {
	for _, test := range []struct{ declaration, value, want string }{
		{`{Type: String, AllowedPattern: "[a-z]+"}`, "abc", ""},
		{`{Type: String, AllowedPattern: "a|b"}`, "ax", "must match"},
		{`{Type: String, AllowedValues: [a, b]}`, "c", "must be one of a, b"},
		{`{Type: String, MinLength: 2}`, "c", "length"},
		{`{Type: Number, MaxValue: 5}`, "6", "bounds"},
		{`{Type: Number}`, "six", "must be a number"},
		{`{Type: "AWS::SSM::Parameter::Value<String>"}`, "x", "not understood"},
	} {
		_, err := template.Parse("t.yaml", []byte("Parameters:\n  P: "+test.declaration+"\nResources: {}\n"),
			template.Options{Parameters: map[string]string{"P": test.value}})
		if test.want == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s with %q: %v", test.declaration, test.value, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "t.yaml:2: ") {
			t.Errorf("without its line: %v", err)
		}
	}
	if _, err := parse("Parameters:\n  P: {Type: String}\nResources: {}\n"); err == nil || !strings.Contains(err.Error(), "no default") {
		t.Errorf("a missing value: %v", err)
	}
}

// Each template is refused in one line that names the file, the line and the reason.
func TestRefusals(t *testing.T) {
	const queue = "  Q: {Type: AWS::SQS::Queue}\n"
	const function = "  F:\n    Type: AWS::Serverless::Function\n    Properties:\n      "
	event := func(properties string) string {
		return api + function + "Events: {E: {Type: Api, Properties: {RestApiId: !Ref Api, " + properties + "}}}\n"
	}
	for name, test := range map[string]struct{ text, want string }{
		"no YAML":                    {"a: [", "did not find"},
		"nothing":                    {"", "empty"},
		"a list":                     {"- a", "mapping"},
		"no resources":               {"Description: x", "no Resources"},
		"another transform":          {"Transform: Mine\nResources: {}", "Transform"},
		"an unknown section":         {"Mappings: {}\nResources: {}", "Mappings"},
		"an alias":                   {stack("  F: &f {Type: AWS::Serverless::Function}\n  G: *f\n"), "aliases"},
		"a key given twice":          {stack("  F: {Type: AWS::Serverless::Function}\n  F: {Type: AWS::Serverless::Function}\n"), "F is given twice"},
		"an unknown resource type":   {stack("  Q: {Type: AWS::SNS::Topic}\n"), `"AWS::SNS::Topic" are not run`},
		"an unknown property":        {stack(function + "FileSystemConfigs: []\n"), "F: FileSystemConfigs is not understood"},
		"an unknown attribute":       {stack("  F: {Type: AWS::Serverless::Function, UpdatePolicy: {}}\n"), "UpdatePolicy"},
		"another runtime":            {stack(function + "Runtime: python3.12\n"), `"python3.12" is not run`},
		"a timeout of Lambda's":      {stack(function + "Timeout: 901\n"), "900 seconds"},
		"a word for a number":        {stack(function + "Timeout: long\n"), `Timeout: "long"`},
		"a dangling reference":       {stack(function + "Description: !Ref Nothing\n"), `"Nothing"`},
		"one in a type not run":      {stack("  R: {Type: AWS::IAM::Role, Properties: {A: !GetAtt Nothing.Arn}}\n"), `"Nothing"`},
		"one to an absent resource":  {stack("  G: {Type: AWS::Serverless::Function, Condition: \"No\"}\n" + function + "Description: !Ref G\n"), "condition is false"},
		"an unknown condition":       {stack("  F: {Type: AWS::Serverless::Function, Condition: Maybe}\n"), `"Maybe"`},
		"an unknown function":        {stack(function + "Description: !ImportValue x\n"), "ImportValue is not understood"},
		"a name that is circular":    {stack(function + "FunctionName: !Sub \"${F}\"\n"), "depends on itself"},
		"a Sub without its brace":    {stack(function + "Description: !Sub \"${Word\"\n"), "without its }"},
		"a condition in a circle":    {"Conditions:\n  A: !Not [!Condition B]\n  B: !Not [!Condition A]\nResources: {}\n", "depends on itself"},
		"an event of another type":   {stack(api + function + "Events: {E: {Type: SNS, Properties: {}}}\n"), `"SNS"`},
		"a foreign queue":            {stack(function + "Events: {E: {Type: SQS, Properties: {Queue: arn}}}\n"), "not the ARN of a queue"},
		"a large batch at once":      {stack(queue + function + "Events: {E: {Type: SQS, Properties: {Queue: !GetAtt Q.Arn, BatchSize: 11}}}\n"), "BatchSize"},
		"a concurrency of one":       {stack(queue + function + "Events: {E: {Type: SQS, Properties: {Queue: !GetAtt Q.Arn, ScalingConfig: {MaximumConcurrency: 1}}}}\n"), "MaximumConcurrency"},
		"a filter of messages":       {stack(queue + function + "Events: {E: {Type: SQS, Properties: {Queue: !GetAtt Q.Arn, FilterCriteria: {}}}}\n"), "FilterCriteria"},
		"a visibility too short":     {stack(queue + function + "Timeout: 31\n      Events: {E: {Type: SQS, Properties: {Queue: !GetAtt Q.Arn}}}\n"), "visibility timeout of Q (30s) is less than"},
		"a queue in order":           {stack("  Q: {Type: AWS::SQS::Queue, Properties: {FifoQueue: true}}\n"), "FifoQueue"},
		"half a redrive policy":      {stack("  Q: {Type: AWS::SQS::Queue, Properties: {RedrivePolicy: {maxReceiveCount: 3}}}\n"), "RedrivePolicy"},
		"foreign dead letters":       {stack("  Q: {Type: AWS::SQS::Queue, Properties: {RedrivePolicy: {maxReceiveCount: 3, deadLetterTargetArn: arn}}}\n"), "not the ARN of a queue"},
		"a cron expression":          {stack(function + "Events: {E: {Type: Schedule, Properties: {Schedule: 'cron(0 * * * ? *)'}}}\n"), "the only schedules"},
		"a rate AWS refuses":         {stack(function + "Events: {E: {Type: ScheduleV2, Properties: {ScheduleExpression: rate(1 minutes)}}}\n"), "the only schedules"},
		"an event that is no JSON":   {stack(function + "Events: {E: {Type: Schedule, Properties: {Schedule: rate(1 minute), Input: x}}}\n"), "JSON"},
		"an alias of a foreign key":  {stack("  A: {Type: AWS::KMS::Alias, Properties: {AliasName: alias/a, TargetKeyId: b}}\n"), "not a key"},
		"a key in every region":      {stack("  K: {Type: AWS::KMS::Key, Properties: {MultiRegion: true}}\n"), "MultiRegion"},
		"an event without an API":    {stack(function + "Events: {E: {Type: Api, Properties: {Path: /, Method: GET}}}\n"), "no AWS::Serverless::Api"},
		"a route given twice":        {stack(event("Path: /a, Method: GET}}, G: {Type: Api, Properties: {RestApiId: !Ref Api, Path: /a, Method: get")), "twice"},
		"sibling parameters":         {stack(event("Path: '/a/{x}', Method: GET}}, G: {Type: Api, Properties: {RestApiId: !Ref Api, Path: '/a/{y}/b', Method: GET")), "siblings"},
		"a greedy one in the middle": {stack(event("Path: '/{a+}/b', Method: GET")), "last"},
		"a parameter in a segment":   {stack(event("Path: '/a{b}', Method: GET")), "segment"},
		"an unknown method":          {stack(event("Path: /a, Method: BREW")), "BREW"},
		"an unknown authorizer":      {stack(event("Path: /a, Method: GET, Auth: {Authorizer: Nobody}")), "Nobody"},
		"an API key":                 {stack(event("Path: /a, Method: GET, Auth: {ApiKeyRequired: true}")), "ApiKeyRequired"},
		"a second API":               {stack(api + second), "second API"},
		"a base path in parts":       {stack(api + mapping("Api", "BasePath: a/b")), "not a base path"},
		"two base paths":             {stack(api + mapping("Api", "BasePath: a") + strings.Replace(mapping("Api", "BasePath: b"), "M:", "N:", 1)), "two base paths"},
		"two APIs at a base path":    {stack(api + mapping("Api", "BasePath: a") + second + strings.Replace(mapping("Second", "BasePath: a"), "M:", "N:", 1)), "second API"},
		"an event of a foreign API":  {stack(api + function + "Events: {E: {Type: Api, Properties: {RestApiId: abc, Path: /, Method: GET}}}\n"), "RestApiId must be"},
		"a bucket with a website":    {stack("  B: {Type: AWS::S3::Bucket, Properties: {WebsiteConfiguration: {}}}\n"), "WebsiteConfiguration"},
		"a cached authorizer":        {stack(authorizers("Identity: {ReauthorizeEvery: 300}")), "ReauthorizeEvery"},
		"the default cache":          {stack(authorizers("")), "ReauthorizeEvery"},
		"an authorizer of tokens":    {stack(strings.Replace(authorizers("Identity: {ReauthorizeEvery: 0}"), "REQUEST", "TOKEN", 1)), "REQUEST"},
		"an unquoted static header":  {stack(api + "      GatewayResponses: {THROTTLED: {ResponseParameters: {Headers: {X: y}}}}\n"), "quoted"},
		"an unknown response type":   {stack(api + "      GatewayResponses: {TEAPOT: {}}\n"), "TEAPOT"},
		"unquoted CORS":              {stack(api + "      Cors: {AllowOrigin: \"*\"}\n"), "quoted"},
		"throttling of one method":   {stack(api + "      MethodSettings: [{ResourcePath: /a, HttpMethod: GET, ThrottlingRateLimit: 1}]\n"), "MethodSettings"},
		"a custom resource of none":  {stack("  C: {Type: Custom::C, Properties: {A: b}}\n"), "ServiceToken"},
		"a foreign service token":    {stack("  C: {Type: Custom::C, Properties: {ServiceToken: arn}}\n"), "not the ARN"},
		"a table without billing":    {stack("  T: {Type: AWS::DynamoDB::Table, Properties: {KeySchema: [{AttributeName: pk, KeyType: HASH}]}}\n"), "contradict"},
		"a table without a key":      {stack("  T: {Type: AWS::DynamoDB::Table, Properties: {BillingMode: PAY_PER_REQUEST}}\n"), "KeySchema"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(test.text)
			if err == nil {
				t.Fatal("it was accepted")
			}
			if said := err.Error(); !strings.Contains(said, test.want) || !strings.HasPrefix(said, "t.yaml:") || strings.Contains(said, "\n") {
				t.Errorf("got %q, want %q", said, test.want)
			}
		})
	}
}

// second is an API beside api.
var second = strings.Replace(api, "Api:", "Second:", 1)

func mapping(api, properties string) string {
	return "  M: {Type: AWS::ApiGateway::BasePathMapping, Properties: {RestApiId: !Ref " + api + ", " + properties + "}}\n"
}

// An API has the base path of its mapping, though this machine has no domain, and the routes of the events that
// name it.
func TestAPIsBehindABasePath(t *testing.T) {
	got, err := parse(stack(api + second + `
  Third: {Type: AWS::Serverless::Api, Properties: {StageName: other}}
  Domain: {Type: AWS::ApiGateway::DomainName, Condition: "No", Properties: {DomainName: d.example}}
  Root: {Type: AWS::ApiGateway::BasePathMapping, Condition: "No", Properties: {DomainName: !Ref Domain, RestApiId: !Ref Api, BasePath: (none)}}
  Deep: {Type: AWS::ApiGateway::BasePathMapping, Condition: "No", Properties: {DomainName: !Ref Domain, RestApiId: !Ref Second, BasePath: !Sub "${Word}-2", Stage: !Ref Second.Stage}}
  Other: {Type: AWS::ApiGateway::BasePathMapping, Properties: {DomainName: d.example, RestApiId: !Ref Third, BasePath: third}}
  Gone: {Type: AWS::Serverless::Api, Condition: "No", Properties: {StageName: gone}}
  GoneToo: {Type: AWS::ApiGateway::BasePathMapping, Condition: "No", Properties: {DomainName: !Ref Domain, RestApiId: !Ref Gone, BasePath: gone}}
  F:
    Type: AWS::Serverless::Function
    Properties:
      Events:
        A: {Type: Api, Properties: {RestApiId: !Ref Api, Path: /a, Method: GET}}
        B: {Type: Api, Properties: {RestApiId: !Ref Second, Path: "/{x}", Method: GET}}
        C: {Type: Api, Properties: {RestApiId: !Ref Second, Path: "/{x}/{rest+}", Method: ANY}}
`))
	if err != nil {
		t.Fatal(err)
	}
	paths := func(a *template.API) (list []string) {
		for _, r := range a.Routes {
			list = append(list, r.Method+" "+r.Path)
		}
		return append(list, "at /"+a.BasePath)
	}
	equal(t, "the API at the root", paths(got.API), []string{"GET /a", "at /"})
	if len(got.Mapped) != 2 {
		t.Fatalf("behind a base path: %+v", got.Mapped)
	}
	equal(t, "the second", paths(got.Mapped[0]), []string{"GET /{x}", "ANY /{x}/{rest+}", "at /word-2"})
	equal(t, "the third", paths(got.Mapped[1]), []string{"at /third"})
}

// Buckets, and what stands before them on AWS alone.
func TestBuckets(t *testing.T) {
	got, err := parse(stack(`
  F:
    Type: AWS::Serverless::Function
    Properties:
      Environment: {Variables: {BUCKET: !Ref Things, ARN: !GetAtt Things.Arn, HOST: !GetAtt Things.RegionalDomainName, CDN: !GetAtt Cdn.DomainName, ID: !Ref Cdn, CACHE: !Ref Cache}}
  Things: {Type: AWS::S3::Bucket, Properties: {VersioningConfiguration: {Status: Enabled}}}
  Named: {Type: AWS::S3::Bucket, Properties: {BucketName: !Sub "${Word}-things"}}
  Policy: {Type: AWS::S3::BucketPolicy, Properties: {Bucket: !Ref Things, PolicyDocument: {}}}
  Cdn: {Type: AWS::CloudFront::Distribution, Properties: {DistributionConfig: {Origins: [{DomainName: !GetAtt Things.DomainName, OriginAccessControlId: !GetAtt Access.Id}]}}}
  Access: {Type: AWS::CloudFront::OriginAccessControl, Properties: {OriginAccessControlConfig: {Name: a}}}
  Cache: {Type: AWS::CloudFront::CachePolicy, Properties: {CachePolicyConfig: {Name: c}}}
  Headers: {Type: AWS::CloudFront::ResponseHeadersPolicy, Properties: {ResponseHeadersPolicyConfig: {Name: !GetAtt Cache.Id}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the buckets", got.Buckets, []template.Bucket{
		{LogicalID: "Things", Name: "s-things", ARN: "arn:aws:s3:::s-things"},
		{LogicalID: "Named", Name: "word-things", ARN: "arn:aws:s3:::word-things"},
	})
	equal(t, "the environment", got.Functions[0].Environment, map[string]string{
		"A": "global", "B": "global", "BUCKET": "s-things", "ARN": "arn:aws:s3:::s-things", "HOST": "s-things.s3.us-east-1.amazonaws.com",
		"CDN": "s-cdn.cloudfront.net", "ID": "s-Cdn", "CACHE": "s-Cache",
	})
}

func authorizers(identity string) string {
	return api + "      Auth: {Authorizers: {A: {FunctionArn: !GetAtt F.Arn, FunctionPayloadType: REQUEST, " + identity + "}}}\n" +
		"  F: {Type: AWS::Serverless::Function}\n"
}

// Events other than those of an API, with the queues and keys that they go with.
func TestWhatElseInvokes(t *testing.T) {
	got, err := template.Parse("t.yaml", []byte(stack(`
  F:
    Type: AWS::Serverless::Function
    Properties:
      Environment: {Variables: {URL: !Ref Q, NAME: !GetAtt Q.QueueName, KEY: !Ref K, KEY_ARN: !GetAtt K.Arn, ALIAS: !Ref A, OTHER: !GetAtt Other.KeyId}}
      Events:
        Work:
          Type: SQS
          Properties:
            Queue: !GetAtt Q.Arn
            BatchSize: 20
            MaximumBatchingWindowInSeconds: 2
            FunctionResponseTypes: [ReportBatchItemFailures]
            ScalingConfig: {MaximumConcurrency: 2}
        Idle: {Type: SQS, Properties: {Queue: !GetAtt Q.Arn, Enabled: false}}
        Often: {Type: Schedule, Properties: {Schedule: rate(5 minutes), Input: !Sub '{"a":"${Word}"}'}}
        Daily: {Type: ScheduleV2, Properties: {ScheduleExpression: rate(1 day), RetryPolicy: {MaximumRetryAttempts: 1}}}
        Never: {Type: ScheduleV2, Properties: {ScheduleExpression: rate(2 hours), State: DISABLED}}
  Q: {Type: AWS::SQS::Queue, Properties: {QueueName: work, VisibilityTimeout: 60, DelaySeconds: 1, RedrivePolicy: {deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: 3}}}
  Dead: {Type: AWS::SQS::Queue, Properties: {MessageRetentionPeriod: 1209600, KmsMasterKeyId: !Ref K}}
  A: {Type: AWS::KMS::Alias, Properties: {AliasName: !Sub "alias/${AWS::StackName}", TargetKeyId: !Ref K}}
  K: {Type: AWS::KMS::Key, Properties: {KeyPolicy: {}}}
  Other: {Type: AWS::KMS::Key, Properties: {KeySpec: ECC_NIST_P256, KeyUsage: SIGN_VERIFY}}
  Web: {Type: AWS::WAFv2::WebACL, Properties: {Scope: REGIONAL}}
  Invoke: {Type: AWS::Lambda::EventInvokeConfig, Properties: {FunctionName: !Ref F, MaximumRetryAttempts: 0}}
  Policy: {Type: AWS::SQS::QueuePolicy, Properties: {Queues: [!Ref Q]}}
`)), template.Options{Stack: "s", KeyIDs: map[string]string{"K": "4a493944"}})
	if err != nil {
		t.Fatal(err)
	}
	const arns = "arn:aws:%s:us-east-1:123456789012:%s"
	arn := func(service, name string) string { return fmt.Sprintf(arns, service, name) }
	equal(t, "the environment", got.Functions[0].Environment, map[string]string{
		"A": "global", "B": "global", "URL": "https://sqs.us-east-1.amazonaws.com/123456789012/work", "NAME": "work",
		"KEY": "4a493944", "KEY_ARN": arn("kms", "key/4a493944"), "ALIAS": "alias/s", "OTHER": "s-Other",
	})
	equal(t, "the queues", got.Queues, []template.Queue{
		{LogicalID: "Q", Name: "work", ARN: arn("sqs", "work"), URL: "https://sqs.us-east-1.amazonaws.com/123456789012/work", VisibilityTimeout: time.Minute,
			Retention: 96 * time.Hour, Delay: time.Second, DeadLetters: arn("sqs", "s-Dead"), MaxReceives: 3},
		{LogicalID: "Dead", Name: "s-Dead", ARN: arn("sqs", "s-Dead"), URL: "https://sqs.us-east-1.amazonaws.com/123456789012/s-Dead", VisibilityTimeout: 30 * time.Second,
			Retention: 336 * time.Hour, Key: "4a493944"},
	})
	equal(t, "the sources", got.Sources, []template.EventSource{
		{Function: "F", Queue: arn("sqs", "work"), BatchSize: 20, Window: 2 * time.Second, ReportsFailures: true, MaxConcurrency: 2},
	})
	equal(t, "the schedules", got.Schedules, []template.Schedule{
		{Function: "F", Name: "s-FOften", ARN: arn("events", "rule/s-FOften"), Every: 5 * time.Minute, Input: `{"a":"word"}`},
		{Function: "F", Name: "s-FDaily", ARN: arn("scheduler", "schedule/default/s-FDaily"), Every: 24 * time.Hour, Scheduler: true},
	})
	equal(t, "the keys", got.Keys, []template.Key{
		{LogicalID: "K", ID: "4a493944", ARN: arn("kms", "key/4a493944"), Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT"},
		{LogicalID: "Other", ID: "s-Other", ARN: arn("kms", "key/s-Other"), Spec: "ECC_NIST_P256", Usage: "SIGN_VERIFY"},
	})
	equal(t, "the aliases", got.Aliases, []template.Alias{{Name: "alias/s", KeyID: "4a493944"}})
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

func TestATableIsReadInFull(t *testing.T) {
	got, err := parse(stack(`
  T:
    Type: AWS::DynamoDB::Table
    Properties:
      AttributeDefinitions: [{AttributeName: pk, AttributeType: S}, {AttributeName: n, AttributeType: N}]
      KeySchema: [{AttributeName: pk, KeyType: HASH}]
      ProvisionedThroughput: {ReadCapacityUnits: 1, WriteCapacityUnits: 2}
      StreamSpecification: {StreamViewType: NEW_IMAGE}
      TimeToLiveSpecification: {AttributeName: ttl, Enabled: false}
      GlobalSecondaryIndexes:
        - IndexName: by-n
          KeySchema: [{AttributeName: n, KeyType: HASH}]
          Projection: {ProjectionType: INCLUDE, NonKeyAttributes: [x]}
          ProvisionedThroughput: {ReadCapacityUnits: 3, WriteCapacityUnits: 4}
`))
	if err != nil {
		t.Fatal(err)
	}
	table := got.Tables[0]
	if table.Throughput.Write != 2 || table.StreamView != "NEW_IMAGE" || table.TTLAttribute != "" ||
		table.GlobalIndexes[0].Throughput.Read != 3 || table.GlobalIndexes[0].NonKey[0] != "x" {
		t.Errorf("got %+v", table)
	}
}

// No template makes the reader panic, and every refusal is one line.
func FuzzParse(f *testing.F) {
	f.Add(stack(api))
	f.Add(stack(authorizers("Identity: {ReauthorizeEvery: 0}")))
	f.Add("Resources:\n  F: {Type: AWS::Serverless::Function, Properties: {Description: !Sub ['${a}', {a: !If [c, !Ref x, !GetAtt y.z]}]}}\n")
	f.Add("Resources:\n  Q: {Type: AWS::SQS::Queue}\n  F: {Type: AWS::Serverless::Function, Properties: {Runtime: provided.al2023, Events: {E: {Type: SQS, Properties: {Queue: !GetAtt Q.Arn}}, G: {Type: Schedule, Properties: {Schedule: rate(1 minute)}}}}}\n")
	f.Add(stack(api + second + mapping("Second", "BasePath: a") + "  B: {Type: AWS::S3::Bucket}\n"))
	f.Add("Conditions: {a: !And [!Equals [1, 2], !Or [!Condition a, {'Fn::Not': [x]}]]}\nResources: {}\n")
	f.Add("Resources: {C: {Type: 'Custom::X', Properties: {ServiceToken: !Join ['', [a, !Ref 'AWS::NoValue']]}}}")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := parse(text); err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("several lines: %q", err)
		}
	})
}
