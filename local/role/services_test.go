package role

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cjj365.cc/bb/local/template"
)

const (
	keyID    = "4a493944-8959-4553-88a3-2beae96cd5ee"
	otherID  = "00000000-8959-4553-88a3-2beae96cd5ee"
	kmsPart  = "arn:aws:kms:us-east-1:123456789012:"
	keyARN   = kmsPart + "key/" + keyID
	otherARN = kmsPart + "key/" + otherID
	madeID   = "11111111-8959-4553-88a3-2beae96cd5ee" // of a key that a function made
	madeARN  = kmsPart + "key/" + madeID
	sqsPart  = "arn:aws:sqs:us-east-1:123456789012:"
	function = "arn:aws:lambda:us-east-1:123456789012:function:bb-G"

	bucketARN = "arn:aws:s3:::things"
)

// madeTags are the tags of the one key that a function made.
func madeTags(id string) (map[string]string, bool, error) {
	return map[string]string{"bb": "stack", "user": "7"}, id == madeID, nil
}

// deployed is a stack with a key and an alias of it, a key to sign with, a queue and one under the key, and a
// bucket.
var deployed = &template.Template{
	Region: "us-east-1", Account: "123456789012",
	Functions: []template.Function{{LogicalID: "F"}, {LogicalID: "G", Name: "bb-G", ARN: function}},
	Keys:      []template.Key{{ID: keyID, ARN: keyARN, Spec: "SYMMETRIC_DEFAULT"}, {ID: otherID, ARN: otherARN, Spec: "ECC_NIST_P256"}},
	Aliases:   []template.Alias{{Name: "alias/a", KeyID: keyID}},
	Buckets:   []template.Bucket{{Name: "things", ARN: bucketARN}},
	Queues:    []template.Queue{{Name: "open", ARN: sqsPart + "open"}, {Name: "sealed", ARN: sqsPart + "sealed", Key: "alias/a"}},
}

func statement(actions, resource string, conditions ...string) template.Statement {
	s := template.Statement{Actions: strings.Fields(actions), Resources: []string{resource}, Conditions: map[string]map[string][]string{}}
	for i := 0; i < len(conditions); i += 3 {
		operator, key := conditions[i], conditions[i+1]
		if s.Conditions[operator] == nil {
			s.Conditions[operator] = map[string][]string{}
		}
		s.Conditions[operator][key] = strings.Fields(conditions[i+2])
	}
	return s
}

// under is a ciphertext as MiniStack makes it.
func under(id string) string { return base64.StdEncoding.EncodeToString([]byte(id + "ciphertext")) }

func TestWhatARoleAllowsOfKMS(t *testing.T) {
	const anyKey = `{"KeyId":"` + keyID + `"`
	plain := statement("kms:GenerateDataKey kms:Decrypt", keyARN)
	user := statement("kms:GenerateDataKey kms:Decrypt", keyARN, "StringLike", contextValue+"user", "7* 8")
	exact := statement("kms:GenerateDataKey", keyARN, "StringEquals", contextValue+"user", "7*")
	onlyKeys := statement("kms:GenerateDataKey", keyARN, "ForAllValues:StringEquals", contextKeys, "user certificate")
	ours := statement("kms:Sign kms:GetPublicKey kms:ScheduleKeyDeletion", kmsPart+"key/*", "StringEquals", resourceTag+"bb", "stack")
	theirs := statement("kms:Sign", kmsPart+"key/*", "StringEquals", resourceTag+"bb", "other")
	someKeys := statement("kms:GenerateDataKey", keyARN, "ForAnyValue:StringEquals", contextKeys, "user certificate")
	for _, tc := range []struct {
		role            template.Statement
		operation, body string
		want            string // the error's beginning; empty for allowed
	}{
		{plain, "GenerateDataKey", anyKey + `}`, ""},
		{plain, "GenerateDataKey", `{"KeyId":"` + keyARN + `"}`, ""},
		{plain, "GenerateDataKey", `{"KeyId":"alias/a"}`, ""},
		{plain, "GenerateDataKey", `{"KeyId":"` + kmsPart + `alias/a"}`, ""},
		{plain, "GenerateDataKey", `{"KeyId":"alias/b"}`, "NotFoundException"},
		{plain, "GenerateDataKey", `{"KeyId":"` + strings.Replace(keyARN, "us-east-1", "us-west-2", 1) + `"}`, "NotFoundException"},
		{plain, "GenerateDataKey", `{}`, "NotFoundException"},
		{plain, "GenerateDataKey", `[]`, "SerializationException"},
		{plain, "Encrypt", anyKey + `}`, "the role of F is not authorized"},
		{plain, "ScheduleKeyDeletion", anyKey + `}`, "the role of F is not authorized"},
		{plain, "CancelKeyDeletion", anyKey + `}`, "the operation"},
		{plain, "TagResource", anyKey + `}`, "the operation"},
		{plain, "Decrypt", `{"CiphertextBlob":"` + under(keyID) + `"}`, ""},
		{plain, "Decrypt", anyKey + `,"CiphertextBlob":"` + under(keyID) + `"}`, ""},
		{plain, "Decrypt", anyKey + `,"CiphertextBlob":"` + under(otherID) + `"}`, "IncorrectKeyException"},
		{plain, "Decrypt", `{"CiphertextBlob":"` + under(otherID) + `"}`, "the role of F is not authorized"},
		{plain, "Decrypt", `{"CiphertextBlob":"` + under("x") + `"}`, "InvalidCiphertextException"},
		{plain, "Decrypt", `{}`, "InvalidCiphertextException"},
		{statement("kms:Encrypt", keyARN), "Encrypt", anyKey + `,"Plaintext":"` + base64.StdEncoding.EncodeToString(make([]byte, 4096)) + `"}`, ""},
		{statement("kms:Encrypt", keyARN), "Encrypt", anyKey + `,"Plaintext":"` + base64.StdEncoding.EncodeToString(make([]byte, 4097)) + `"}`, "ValidationException"},
		{statement("kms:Sign", otherARN), "Sign", `{"KeyId":"` + otherID + `"}`, ""},
		{statement("kms:Sign", keyARN), "Sign", `{"KeyId":"` + otherID + `"}`, "the role of F is not authorized"},
		{statement("kms:Sign", otherARN), "Sign", `{"KeyId":"` + otherID + `","Message":"` + base64.StdEncoding.EncodeToString(make([]byte, 4097)) + `"}`, "ValidationException"},

		{ours, "Sign", `{"KeyId":"` + madeID + `"}`, ""},
		{ours, "Sign", `{"KeyId":"` + madeARN + `"}`, ""},
		{ours, "GetPublicKey", `{"KeyId":"` + madeID + `"}`, ""},
		{ours, "ScheduleKeyDeletion", `{"KeyId":"` + madeID + `"}`, ""},
		{ours, "Decrypt", `{"KeyId":"` + madeID + `"}`, "the role of F is not authorized"},
		{ours, "Sign", `{"KeyId":"` + keyID + `"}`, "the role of F is not authorized"}, // the template's own has no such tag
		{ours, "Sign", `{"KeyId":"22222222"}`, "NotFoundException"},
		{ours, "Sign", `{"KeyId":"*"}`, "NotFoundException"},
		{ours, "Sign", `{"KeyId":"` + strings.Replace(madeARN, "us-east-1", "us-west-2", 1) + `"}`, "NotFoundException"},
		{theirs, "Sign", `{"KeyId":"` + madeID + `"}`, "the role of F is not authorized"},

		{user, "GenerateDataKey", anyKey + `,"EncryptionContext":{"user":"71","x":"y"}}`, ""},
		{user, "GenerateDataKey", anyKey + `,"EncryptionContext":{"user":"8"}}`, ""},
		{user, "GenerateDataKey", anyKey + `,"EncryptionContext":{"user":"81"}}`, "the role of F is not authorized"},
		{user, "GenerateDataKey", anyKey + `,"EncryptionContext":{"User":"7"}}`, "the role of F is not authorized"},
		{user, "GenerateDataKey", anyKey + `}`, "the role of F is not authorized"},
		{exact, "GenerateDataKey", anyKey + `,"EncryptionContext":{"user":"7*"}}`, ""},
		{exact, "GenerateDataKey", anyKey + `,"EncryptionContext":{"user":"71"}}`, "the role of F is not authorized"},
		{onlyKeys, "GenerateDataKey", anyKey + `,"EncryptionContext":{"user":"7","certificate":"1"}}`, ""},
		{onlyKeys, "GenerateDataKey", anyKey + `,"EncryptionContext":{"user":"7","x":"1"}}`, "the role of F is not authorized"},
		{onlyKeys, "GenerateDataKey", anyKey + `}`, ""}, // as IAM has it
		{someKeys, "GenerateDataKey", anyKey + `,"EncryptionContext":{"user":"7","x":"1"}}`, ""},
		{someKeys, "GenerateDataKey", anyKey + `,"EncryptionContext":{"x":"1"}}`, "the role of F is not authorized"},
		{someKeys, "GenerateDataKey", anyKey + `}`, "the role of F is not authorized"},
	} {
		calls, err := kmsCalls(deployed, madeTags, tc.operation, []byte(tc.body))
		if err == nil {
			err = checker(t, tc.role).check("LOCALF", calls)
		}
		if (tc.want == "") != (err == nil) || err != nil && !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%v: %s %.120s: %v, want %s", tc.role, tc.operation, tc.body, err, tc.want)
		}
	}
}

// A new key is allowed by the tags it is given, and to give it tags takes a permission of its own.
func TestWhoMayMakeAKey(t *testing.T) {
	const tagged = `{"KeySpec":"ECC_NIST_P256","KeyUsage":"SIGN_VERIFY","Description":"d","Tags":[{"TagKey":"bb","TagValue":"stack"},{"TagKey":"user","TagValue":"7"}]}`
	create := statement("kms:CreateKey", "*", "StringEquals", requestTag+"bb", "stack")
	tags := statement("kms:TagResource", kmsPart+"key/*", "StringEquals", requestTag+"bb", "stack", "StringLike", requestTag+"user", "*")
	for _, tc := range []struct {
		role []template.Statement
		body string
		want string
	}{
		{[]template.Statement{create, tags}, tagged, ""},
		{[]template.Statement{create}, tagged, "the role of F is not authorized to perform: kms:TagResource"},
		{[]template.Statement{tags}, tagged, "the role of F is not authorized to perform: kms:CreateKey"},
		{[]template.Statement{statement("kms:CreateKey", kmsPart+"key/*"), tags}, tagged, "the role of F is not authorized to perform: kms:CreateKey"},
		{[]template.Statement{create, tags}, strings.Replace(tagged, "stack", "other", 1), "the role of F is not authorized to perform: kms:CreateKey"},
		{[]template.Statement{create, tags}, `{"KeySpec":"ECC_NIST_P256"}`, "the role of F is not authorized to perform: kms:CreateKey"},
		{[]template.Statement{create, tags}, `{"Policy":"{}"}`, "the operation CreateKey is not understood here"},
		{[]template.Statement{statement("kms:CreateKey", "*")}, `{"KeySpec":"ECC_NIST_P256"}`, ""},
	} {
		calls, err := kmsCalls(deployed, madeTags, "CreateKey", []byte(tc.body))
		if err == nil {
			err = checker(t, tc.role...).check("LOCALF", calls)
		}
		if (tc.want == "") != (err == nil) || err != nil && !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%v: %s: %v, want %s", tc.role, tc.body, err, tc.want)
		}
	}
}

func TestWhatARoleAllowsOfS3(t *testing.T) {
	get, put, list := statement("s3:GetObject", bucketARN+"/*"), statement("s3:PutObject", bucketARN+"/crl/*"), statement("s3:ListBucket", bucketARN)
	for _, tc := range []struct {
		role         []template.Statement
		method, path string
		header       string
		want         string
	}{
		{[]template.Statement{get}, "GET", "/things/7/a%20b?x-id=GetObject", "", ""},
		{[]template.Statement{get}, "HEAD", "/things/7/a", "", ""},
		{[]template.Statement{get}, "GET", "/things/7/a?versionId=1", "", "GET /things/7/a?versionId=1 is not understood here"},
		{[]template.Statement{get}, "GET", "/things/7/a?tagging", "", "GET /things/7/a?tagging is not understood here"},
		{[]template.Statement{get}, "GET", "/other/7/a", "", "NoSuchBucket"},
		{[]template.Statement{get}, "GET", "/", "", "NoSuchBucket"},
		{[]template.Statement{put}, "GET", "/things/crl/a", "", "the role of F is not authorized to perform: s3:GetObject on resource: arn:aws:s3:::things/crl/a"},
		{[]template.Statement{put}, "PUT", "/things/crl/a?x-id=PutObject", "", ""},
		{[]template.Statement{put}, "PUT", "/things/7/a", "", "the role of F is not authorized to perform: s3:PutObject"},
		{[]template.Statement{put}, "PUT", "/things/crl/a", "If-None-Match", ""},
		{[]template.Statement{put}, "PUT", "/things/crl/a", "If-Match", "the role of F is not authorized to perform: s3:GetObject"},
		{[]template.Statement{put, get}, "PUT", "/things/crl/a", "If-Match", ""},
		{[]template.Statement{put}, "PUT", "/things/crl/a", "X-Amz-Copy-Source", "PUT /things/crl/a is not understood here"},
		{[]template.Statement{put}, "PUT", "/things/crl/a", "X-Amz-Acl", "PUT /things/crl/a is not understood here"},
		{[]template.Statement{put}, "POST", "/things/crl/a", "", "POST /things/crl/a is not understood here"},
		{[]template.Statement{put}, "DELETE", "/things/crl/a", "", "the role of F is not authorized to perform: s3:DeleteObject"},
		{[]template.Statement{statement("s3:DeleteObject", bucketARN+"/*")}, "DELETE", "/things/crl/a?x-id=DeleteObject", "", ""},
		{[]template.Statement{list}, "GET", "/things?list-type=2&prefix=7%2F", "", ""},
		{[]template.Statement{list}, "HEAD", "/things", "", ""},
		{[]template.Statement{list}, "GET", "/things?policy", "", "GET /things?policy is not understood here"},
		{[]template.Statement{list}, "GET", "/things/a", "", "the role of F is not authorized to perform: s3:GetObject"},
		{[]template.Statement{get}, "GET", "/things?list-type=2", "", "the role of F is not authorized to perform: s3:ListBucket"},
		{[]template.Statement{statement("s3:*", "*")}, "DELETE", "/things", "", "DELETE /things is not understood here"},
		{[]template.Statement{statement("s3:*", "*")}, "PUT", "/things", "", "PUT /things is not understood here"},
	} {
		request := httptest.NewRequest(tc.method, tc.path, nil)
		if tc.header != "" {
			request.Header.Set(tc.header, "x")
		}
		calls, err := s3Calls(deployed, request)
		if err == nil {
			err = checker(t, tc.role...).check("LOCALF", calls)
		}
		if (tc.want == "") != (err == nil) || err != nil && !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%v: %s %s %s: %v, want %s", tc.role, tc.method, tc.path, tc.header, err, tc.want)
		}
	}
}

// Only who may list the bucket is told that an object is not there.
func TestAnAbsentObject(t *testing.T) {
	none := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, "<Error><Code>NoSuchKey</Code></Error>")
	}))
	defer none.Close()
	get := statement("s3:GetObject", bucketARN+"/*")
	for _, tc := range []struct {
		role []template.Statement
		code int
		want string
	}{
		{[]template.Statement{get}, 403, "<Code>AccessDenied</Code>"},
		{[]template.Statement{get, statement("s3:ListBucket", bucketARN)}, 404, "<Code>NoSuchKey</Code>"},
	} {
		handler, err := checker(t, tc.role...).S3(none.URL, deployed)
		if err != nil {
			t.Fatal(err)
		}
		request := httptest.NewRequest(http.MethodGet, "/things/a", nil)
		request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=LOCALF/20261124/us-east-1/s3/aws4_request, ...")
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		if answer.Code != tc.code || !strings.Contains(answer.Body.String(), tc.want) {
			t.Errorf("%v: %d %s", tc.role, answer.Code, answer.Body)
		}
	}
}

func TestWhatARoleAllowsOfSQS(t *testing.T) {
	const url = `"QueueUrl":"https://sqs.us-east-1.amazonaws.com/123456789012/`
	send := statement("sqs:SendMessage", sqsPart+"*")
	take := statement("sqs:ReceiveMessage sqs:DeleteMessage sqs:ChangeMessageVisibility", sqsPart+"*")
	key := func(actions string) template.Statement { return statement(actions, keyARN) }
	for _, tc := range []struct {
		role            []template.Statement
		operation, body string
		want            string
	}{
		{[]template.Statement{send}, "SendMessage", `{` + url + `open"}`, ""},
		{[]template.Statement{send}, "SendMessageBatch", `{` + url + `open"}`, ""},
		{[]template.Statement{send}, "ReceiveMessage", `{` + url + `open"}`, "the role of F is not authorized to perform: sqs:ReceiveMessage"},
		{[]template.Statement{send}, "SendMessage", `{` + url + `none"}`, "QueueDoesNotExist"},
		{[]template.Statement{send}, "SendMessage", `{}`, "QueueDoesNotExist"},
		{[]template.Statement{send}, "SendMessage", `[]`, "read SendMessage"},
		{[]template.Statement{statement("sqs:SendMessage", sqsPart+"sealed")}, "SendMessage", `{` + url + `open"}`, "the role of F is not authorized"},
		{[]template.Statement{statement("sqs:GetQueueUrl", sqsPart+"open")}, "GetQueueUrl", `{"QueueName":"open"}`, ""},
		{[]template.Statement{statement("sqs:*", "*")}, "DeleteQueue", `{` + url + `open"}`, "the operation"},
		{[]template.Statement{take}, "DeleteMessageBatch", `{` + url + `open"}`, ""},
		{[]template.Statement{take}, "ChangeMessageVisibilityBatch", `{` + url + `open"}`, ""},
		// A queue under a key takes that key's permissions too.
		{[]template.Statement{send}, "SendMessage", `{` + url + `sealed"}`, "the role of F is not authorized to perform: kms:GenerateDataKey"},
		{[]template.Statement{send, key("kms:GenerateDataKey")}, "SendMessage", `{` + url + `sealed"}`, "the role of F is not authorized to perform: kms:Decrypt"},
		{[]template.Statement{send, key("kms:GenerateDataKey kms:Decrypt")}, "SendMessage", `{` + url + `sealed"}`, ""},
		{[]template.Statement{take}, "ReceiveMessage", `{` + url + `sealed"}`, "the role of F is not authorized to perform: kms:Decrypt"},
		{[]template.Statement{take, key("kms:Decrypt")}, "ReceiveMessage", `{` + url + `sealed"}`, ""},
		{[]template.Statement{take, statement("kms:Decrypt", keyARN, "StringEquals", contextValue+"aws:sqs:arn", sqsPart+"sealed")}, "ReceiveMessage", `{` + url + `sealed"}`, ""},
		{[]template.Statement{take, statement("kms:Decrypt", keyARN, "StringEquals", contextValue+"aws:sqs:arn", sqsPart+"open")}, "ReceiveMessage", `{` + url + `sealed"}`,
			"the role of F is not authorized to perform: kms:Decrypt"},
		{[]template.Statement{take}, "DeleteMessage", `{` + url + `sealed"}`, ""},
	} {
		calls, err := sqsCalls(deployed, tc.operation, []byte(tc.body))
		if err == nil {
			err = checker(t, tc.role...).check("LOCALF", calls)
		}
		if (tc.want == "") != (err == nil) || err != nil && !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%v: %s %s: %v, want %s", tc.role, tc.operation, tc.body, err, tc.want)
		}
	}
}

func TestWhomAFunctionMayInvoke(t *testing.T) {
	passed := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "passed") })
	for _, tc := range []struct {
		resource, path string
		want           int
	}{
		{function, "bb-G", 200},
		{function, "arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Afunction%3Abb-G", 200},
		{function, "bb-G/invocations?Qualifier=live", 403},
		{function + ":live", "bb-G/invocations?Qualifier=live", 200},
		{function + ":live", "bb-G:live", 200},
		{function + ":live", "bb-G", 403},
		{function, "bb-H", 403},
	} {
		path := tc.path
		if !strings.Contains(path, "/") {
			path += "/invocations"
		}
		request := httptest.NewRequest(http.MethodPost, "/2015-03-31/functions/"+path, strings.NewReader("{}"))
		request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=LOCALF/20261124/us-east-1/lambda/aws4_request, ...")
		answer := httptest.NewRecorder()
		checker(t, statement("lambda:InvokeFunction", tc.resource)).Lambda(deployed, passed).ServeHTTP(answer, request)
		if answer.Code != tc.want || tc.want == 403 && answer.Header().Get("X-Amzn-Errortype") != "AccessDeniedException" {
			t.Errorf("%s with %s: %d %s", tc.path, tc.resource, answer.Code, answer.Body)
		}
	}
}

func TestAnEventSourceNeedsTheFunctionsPermissions(t *testing.T) {
	f := template.Function{LogicalID: "F", Role: []template.Statement{statement("sqs:ReceiveMessage sqs:DeleteMessage sqs:GetQueueAttributes", sqsPart+"open")}}
	c, err := New([]template.Function{f}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CheckEventSource(f, sqsPart+"open"); err != nil {
		t.Error(err)
	}
	if err := c.CheckEventSource(f, sqsPart+"sealed"); err == nil {
		t.Error("a queue that the role does not name")
	}
	if got := c.Unused()["F"]; len(got) != 3 {
		t.Errorf("the question counts as a use: %q", got)
	}
}

// The services' own shapes, which the SDKs read.
func TestDenials(t *testing.T) {
	denied := fmt.Errorf("the role of F is not authorized")
	for name, tc := range map[string]struct {
		deny   func(http.ResponseWriter, error)
		err    error
		status int
		kind   string // in the body or the header
	}{
		"KMS":         {denyKMS, denied, 400, "AccessDeniedException"},
		"KMS's own":   {denyKMS, fmt.Errorf("x: %w", &amznError{"IncorrectKeyException", "m"}), 400, "IncorrectKeyException"},
		"SQS":         {denySQS, denied, 403, "AccessDenied;Sender"},
		"SQS's own":   {denySQS, &amznError{"QueueDoesNotExist", "m"}, 400, "AWS.SimpleQueueService.NonExistentQueue;Sender"},
		"Lambda, SES": {denyREST, denied, 403, "AccessDeniedException"},
		"DynamoDB":    {denyDynamoDB, denied, 400, "com.amazon.coral.service#AccessDeniedException"},
	} {
		answer := httptest.NewRecorder()
		tc.deny(answer, tc.err)
		var body map[string]string
		if err := json.Unmarshal(answer.Body.Bytes(), &body); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		header := answer.Header()
		if answer.Code != tc.status || body["__type"] != tc.kind && header.Get("X-Amzn-Query-Error") != tc.kind && header.Get("X-Amzn-Errortype") != tc.kind {
			t.Errorf("%s: %d %s %v", name, answer.Code, answer.Body, header)
		}
	}
}

func TestAContextThatNothingUsedIsReported(t *testing.T) {
	c := checker(t, statement("kms:Decrypt xray:PutTraceSegments", keyARN, "StringEquals", contextValue+"for", "a b"))
	calls, err := kmsCalls(deployed, madeTags, "Decrypt", []byte(`{"KeyId":"alias/a","CiphertextBlob":"`+under(keyID)+`","EncryptionContext":{"for":"a"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.check("LOCALF", calls); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.Unused()["F"]); got != "["+contextValue+"for b of "+keyARN+"]" {
		t.Error(got)
	}
}

// Whatever is sent, the answer is a refusal or the permissions that it takes, never neither.
func FuzzCalls(f *testing.F) {
	f.Add("Decrypt", []byte(`{"KeyId":"alias/a","CiphertextBlob":"`+under(keyID)+`","EncryptionContext":{"for":"a"}}`))
	f.Add("CreateKey", []byte(`{"Tags":[{"TagKey":"bb","TagValue":"stack"}]}`))
	f.Add("Sign", []byte(`{"KeyId":"`+madeID+`"}`))
	f.Add("SendMessage", []byte(`{"QueueUrl":"https://sqs/1/sealed"}`))
	f.Add("GetQueueUrl", []byte(`{"QueueName":"open"}`))
	f.Fuzz(func(t *testing.T, operation string, body []byte) {
		ofKMS := func(t *template.Template, operation string, body []byte) ([]call, error) {
			return kmsCalls(t, madeTags, operation, body)
		}
		for _, read := range []func(*template.Template, string, []byte) ([]call, error){ofKMS, sqsCalls} {
			calls, err := read(deployed, operation, body)
			if err == nil && len(calls) == 0 {
				t.Error("let through without a permission")
			}
			for _, c := range calls {
				if c.action == "" || c.resource == "" {
					t.Errorf("the permission %+v is of nothing", c)
				}
			}
		}
	})
}
