// Command authorizer is the Lambda authorizer of the API (type REQUEST, uncached): it turns the token
// or cookie of each request into a policy and the caller's scope.
//
// It says who calls, and limits the method ARN to the caller's own paths; what the caller may do
// there is for the function to say. It makes one consistent read, and fails closed: whatever goes
// wrong, there is no answer that allows. The first call is made before the first request, while
// Lambda gives a starting function its full processor.
package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambda"

	"cjj365.cc/bb/shared/authn"
	"cjj365.cc/bb/shared/dynamo"
)

func main() {
	logger := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	table := os.Getenv("CREDENTIAL_TABLE")
	client, err := dynamo.FromEnvironment()
	if err != nil || table == "" {
		logger.Error("the authorizer cannot start", "error", err, "CREDENTIAL_TABLE", table)
		os.Exit(1)
	}
	// A table that does not answer now may do so when asked.
	if err := client.Warm(context.Background(), table); err != nil {
		logger.Warn("the table did not answer at start", "error", err)
	}
	lambda.Start(&handler{
		authn: &authn.Authenticator{Client: client, Table: table, Now: time.Now},
		log:   logger,
	})
}
