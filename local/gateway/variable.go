package gateway

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A format is a text with $context variables: the access log's, or the body of a gateway response.
type format []part

// A part is literal text or, where variable is set, the name of a variable without "$context.".
type part struct{ literal, variable string }

var variables = regexp.MustCompile(`\$context((?:\.[A-Za-z0-9_-]+)+)`)

func parseFormat(text string) format {
	var f format
	for text != "" {
		at := variables.FindStringSubmatchIndex(text)
		if at == nil {
			return append(f, part{literal: text})
		}
		if at[0] > 0 {
			f = append(f, part{literal: text[:at[0]]})
		}
		f = append(f, part{variable: text[at[2]+1 : at[3]]})
		text = text[at[1]:]
	}
	return f
}

// render puts the variables in as they are; one without a value becomes missing.
func (f format) render(x *exchange, missing string) string {
	var b strings.Builder
	for _, p := range f {
		if p.variable == "" {
			b.WriteString(p.literal)
			continue
		}
		value, found := x.variable(p.variable)
		if !found {
			value = missing
		}
		b.WriteString(value)
	}
	return b.String()
}

// variable resolves a $context variable. One that API Gateway knows and this exchange has no value
// for is missing, like one that nobody knows.
func (x *exchange) variable(name string) (value string, found bool) {
	switch group, rest, _ := strings.Cut(name, "."); group {
	case "authorizer", "authorize":
		return x.authorizerVariable(rest)
	case "error":
		return x.errorVariable(rest)
	case "integration":
		return took(x.integrationTook, rest == "latency" || rest == "integrationLatency")
	}
	switch name {
	case "accountId":
		value = x.account
	case "apiId":
		value = x.api.ID
	case "domainName":
		value = x.r.Host
	case "domainPrefix":
		value = x.domainPrefix()
	case "extendedRequestId":
		value = x.extendedID
	case "httpMethod":
		value = x.r.Method
	case "identity.sourceIp":
		value = x.sourceIP()
	case "identity.userAgent":
		value = x.r.UserAgent()
	case "integrationLatency":
		return took(x.integrationTook, true)
	case "path":
		value = x.contextPath()
	case "protocol":
		value = x.r.Proto
	case "requestId":
		value = x.id
	case "requestTime":
		value = x.start.UTC().Format(requestTimeLayout)
	case "requestTimeEpoch":
		value = strconv.FormatInt(x.start.UnixMilli(), 10)
	case "resourceId":
		value = x.resourceVariable().id
	case "resourcePath":
		value = x.resourceVariable().path
	case "responseLatency":
		value = strconv.FormatInt(time.Since(x.start).Milliseconds(), 10)
	case "responseLength":
		value = strconv.Itoa(x.responseBytes)
	case "stage":
		value = x.api.Stage
	case "status":
		value = strconv.Itoa(x.status)
	case "xrayTraceId":
		value = strings.TrimPrefix(x.traceID(), "Root=")
	}
	return value, value != ""
}

func (x *exchange) resourceVariable() *resource {
	if x.resource == nil {
		return &resource{}
	}
	return x.resource
}

func (x *exchange) authorizerVariable(name string) (string, bool) {
	if value, found := x.authorizer[name]; found {
		return fmt.Sprint(value), true
	}
	return took(x.authorizerTook, name == "latency" || name == "integrationLatency")
}

func (x *exchange) errorVariable(name string) (string, bool) {
	if x.refused == nil {
		return "", false
	}
	switch name {
	case "message":
		return x.refused.message, true
	case "messageString":
		return x.refused.messageString(), true
	case "responseType":
		return x.refused.kind, true
	}
	return "", false
}

// took is a latency in milliseconds, missing for a step that was not reached.
func took(d time.Duration, asked bool) (string, bool) {
	if !asked || d == 0 {
		return "", false
	}
	return strconv.FormatInt(d.Milliseconds(), 10), true
}
