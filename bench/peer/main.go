// Command peer is an authorizer as most are written: the AWS SDK with its default configuration,
// API Gateway's types, and a first call when the first request comes. It is what the cold start of
// the real one is held against.
//
// It is a module of its own, so that the SDK's config package cannot slip into a function.
package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log"
	"os"
	"strings"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

func main() {
	configuration, err := config.LoadDefaultConfig(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	a := authorizer{db: dynamodb.NewFromConfig(configuration), table: os.Getenv("CREDENTIAL_TABLE"), pk: os.Getenv("PEER_PK"), sk: os.Getenv("PEER_SK")}
	lambda.Start(a.authorize)
}

type authorizer struct {
	db     *dynamodb.Client
	table  string
	pk, sk string // of the one credential it is asked about
}

func (a authorizer) authorize(ctx context.Context, e events.APIGatewayCustomAuthorizerRequestTypeRequest) (events.APIGatewayCustomAuthorizerResponse, error) {
	refused := errors.New("Unauthorized") //nolint:staticcheck // API Gateway's word, capital and all
	token, ok := strings.CutPrefix(e.Headers["Authorization"], "Bearer ")
	if !ok {
		return events.APIGatewayCustomAuthorizerResponse{}, refused
	}
	found, err := a.db.GetItem(ctx, &dynamodb.GetItemInput{
		TableName: &a.table, ConsistentRead: aws.Bool(true),
		Key: map[string]types.AttributeValue{"pk": &types.AttributeValueMemberS{Value: a.pk}, "sk": &types.AttributeValueMemberS{Value: a.sk}},
	})
	if err != nil {
		return events.APIGatewayCustomAuthorizerResponse{}, err
	}
	digest := sha256.Sum256([]byte(token))
	stored, _ := found.Item["digest"].(*types.AttributeValueMemberB)
	if stored == nil || subtle.ConstantTimeCompare(digest[:], stored.Value) != 1 {
		return events.APIGatewayCustomAuthorizerResponse{}, refused
	}
	return events.APIGatewayCustomAuthorizerResponse{
		PrincipalID: "user",
		PolicyDocument: events.APIGatewayCustomAuthorizerPolicy{
			Version:   "2012-10-17",
			Statement: []events.IAMPolicyStatement{{Action: []string{"execute-api:Invoke"}, Effect: "Allow", Resource: []string{e.MethodArn}}},
		},
	}, nil
}
