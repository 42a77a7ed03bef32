// Command function is what tests run in place of a real function. The last segment of the event's
// path names what it does. As an authorizer it answers what the Authorization header says, and as a
// custom resource it answers what the property Answer says. Messages of a queue it posts to the URLs that
// are their bodies.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strings"

	"github.com/aws/aws-lambda-go/cfn"
	"github.com/aws/aws-lambda-go/lambda"
)

type event struct {
	Type        string            `json:"type"`
	MethodArn   string            `json:"methodArn"`
	RequestType string            `json:"RequestType"`
	Path        string            `json:"path"`
	Headers     map[string]string `json:"headers"`
	Query       map[string]string `json:"queryStringParameters"`
	Body        string            `json:"body"`
	Encoded     bool              `json:"isBase64Encoded"`
	Records     []json.RawMessage `json:"Records"`
	raw         json.RawMessage
}

type answer struct {
	StatusCode int               `json:"statusCode"`
	Headers    map[string]string `json:"headers,omitempty"`
	Body       string            `json:"body"`
}

var behaviours = map[string]func(context.Context, event) (any, error){
	"echo": func(_ context.Context, e event) (any, error) {
		return answer{200, map[string]string{"Content-Type": "application/json"}, string(e.raw)}, nil
	},
	// raw answers with the request's body as Lambda's answer.
	"raw": func(_ context.Context, e event) (any, error) {
		if !e.Encoded {
			return json.RawMessage(e.Body), nil
		}
		body, err := base64.StdEncoding.DecodeString(e.Body)
		return json.RawMessage(body), err
	},
	"environment": func(context.Context, event) (any, error) {
		return answer{200, nil, strings.Join(os.Environ(), "\n")}, nil
	},
	"pid": func(context.Context, event) (any, error) { return answer{200, nil, fmt.Sprint(os.Getpid())}, nil },
	// hang outlives its deadline.
	"hang":  func(context.Context, event) (any, error) { select {} },
	"exit":  func(context.Context, event) (any, error) { os.Exit(3); return nil, nil },
	"panic": func(context.Context, event) (any, error) { panic("as asked") },
	"error": func(_ context.Context, e event) (any, error) { return nil, errors.New(e.Query["message"]) },
	"big":   func(context.Context, event) (any, error) { return answer{200, nil, strings.Repeat("x", 7<<20)}, nil },
	"print": func(_ context.Context, e event) (any, error) {
		fmt.Println(e.Query["text"])
		return answer{StatusCode: 200}, nil
	},
	"secret": secret,
	"send":   send,
	// call waits for the answer of the URL it is given, so that a test decides when it ends.
	"call": func(ctx context.Context, e event) (any, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.Query["url"], nil)
		if err != nil {
			return nil, err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return nil, err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return answer{200, nil, string(body)}, err
	},
}

func main() {
	if os.Getenv("FAIL_INIT") != "" {
		os.Exit(4)
	}
	lambda.Start(handle)
}

func handle(ctx context.Context, raw json.RawMessage) (any, error) {
	e := event{raw: raw}
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	if e.RequestType != "" {
		return custom(ctx, raw)
	}
	if len(e.Records) > 0 {
		return work(ctx, raw)
	}
	if e.Type == "REQUEST" {
		return authorize(e)
	}
	behave, found := behaviours[path.Base(e.Path)]
	if !found {
		behave = behaviours["echo"]
	}
	return behave(ctx, e)
}

// authorize: "allow" allows the method, "error X" fails with X, anything else is the answer itself,
// in which METHOD stands for the method's ARN.
func authorize(e event) (any, error) {
	credential := e.Headers["Authorization"]
	if message, found := strings.CutPrefix(credential, "error "); found {
		return nil, errors.New(message)
	}
	switch credential {
	case "hang":
		select {}
	case "exit":
		os.Exit(3)
	case "", "allow":
		credential = `{"principalId":"p","policyDocument":{"Version":"2012-10-17","Statement":` +
			`{"Effect":"Allow","Action":"execute-api:Invoke","Resource":"METHOD"}}}`
	}
	return json.RawMessage(strings.ReplaceAll(credential, "METHOD", e.MethodArn)), nil
}

func custom(ctx context.Context, raw json.RawMessage) (any, error) {
	var e cfn.Event
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	return cfn.LambdaWrap(func(_ context.Context, e cfn.Event) (string, map[string]any, error) {
		if said, _ := e.ResourceProperties["Answer"].(string); said != "" {
			return "", nil, errors.New(said)
		}
		return "made", nil, nil
	})(ctx, e)
}
