package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/local/template"
)

// CreateTables makes the tables that are not there yet. A table that is there with another key is
// refused: CloudFormation would replace it, and lose what it holds.
func (s *Server) CreateTables(ctx context.Context, tables []template.Table) error {
	for _, t := range tables {
		if err := s.createTable(ctx, t); err != nil {
			return fmt.Errorf("create table %s: %w", t.Name, err)
		}
	}
	return nil
}

func (s *Server) createTable(ctx context.Context, t template.Table) error {
	var exists *types.ResourceInUseException
	_, err := s.client.CreateTable(ctx, createInput(t))
	if errors.As(err, &exists) {
		return s.compareTable(ctx, t)
	}
	if err != nil || t.TTLAttribute == "" {
		return err
	}
	_, err = s.client.UpdateTimeToLive(ctx, &dynamodb.UpdateTimeToLiveInput{
		TableName: &t.Name,
		TimeToLiveSpecification: &types.TimeToLiveSpecification{
			AttributeName: &t.TTLAttribute,
			Enabled:       aws.Bool(true),
		},
	})
	return err
}

func (s *Server) compareTable(ctx context.Context, t template.Table) error {
	found, err := s.client.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &t.Name})
	if err != nil {
		return err
	}
	is := layout(found.Table.KeySchema)
	for _, i := range found.Table.GlobalSecondaryIndexes {
		is = append(is, aws.ToString(i.IndexName))
	}
	for _, i := range found.Table.LocalSecondaryIndexes {
		is = append(is, aws.ToString(i.IndexName))
	}
	wanted := layout(keySchema(t.Key))
	for _, i := range slices.Concat(t.GlobalIndexes, t.LocalIndexes) {
		wanted = append(wanted, i.Name)
	}
	slices.Sort(is)
	slices.Sort(wanted)
	if !slices.Equal(is, wanted) {
		return errors.New("it is there with other keys or indexes; go run ./local reset removes it and what it holds")
	}
	return nil
}

func layout(key []types.KeySchemaElement) []string {
	var parts []string
	for _, k := range key {
		parts = append(parts, string(k.KeyType)+" "+aws.ToString(k.AttributeName))
	}
	return parts
}

func createInput(t template.Table) *dynamodb.CreateTableInput {
	input := &dynamodb.CreateTableInput{
		TableName:             &t.Name,
		KeySchema:             keySchema(t.Key),
		BillingMode:           types.BillingModePayPerRequest,
		ProvisionedThroughput: throughput(t.Throughput),
	}
	if t.Throughput != nil {
		input.BillingMode = types.BillingModeProvisioned
	}
	for _, a := range t.Attributes {
		input.AttributeDefinitions = append(input.AttributeDefinitions, types.AttributeDefinition{
			AttributeName: &a.Name,
			AttributeType: types.ScalarAttributeType(a.Type),
		})
	}
	for _, i := range t.GlobalIndexes {
		input.GlobalSecondaryIndexes = append(input.GlobalSecondaryIndexes, types.GlobalSecondaryIndex{
			IndexName:             &i.Name,
			KeySchema:             keySchema(i.Key),
			Projection:            projection(i),
			ProvisionedThroughput: throughput(i.Throughput),
		})
	}
	for _, i := range t.LocalIndexes {
		input.LocalSecondaryIndexes = append(input.LocalSecondaryIndexes, types.LocalSecondaryIndex{
			IndexName:  &i.Name,
			KeySchema:  keySchema(i.Key),
			Projection: projection(i),
		})
	}
	if t.StreamView != "" {
		input.StreamSpecification = &types.StreamSpecification{
			StreamEnabled:  aws.Bool(true),
			StreamViewType: types.StreamViewType(t.StreamView),
		}
	}
	return input
}

func keySchema(key []template.KeyPart) []types.KeySchemaElement {
	schema := make([]types.KeySchemaElement, len(key))
	for i, part := range key {
		schema[i] = types.KeySchemaElement{AttributeName: &part.Attribute, KeyType: types.KeyType(part.Kind)}
	}
	return schema
}

func projection(i template.Index) *types.Projection {
	return &types.Projection{ProjectionType: types.ProjectionType(i.Projection), NonKeyAttributes: i.NonKey}
}

func throughput(t *template.Throughput) *types.ProvisionedThroughput {
	if t == nil {
		return nil
	}
	return &types.ProvisionedThroughput{
		ReadCapacityUnits:  aws.Int64(int64(t.Read)),
		WriteCapacityUnits: aws.Int64(int64(t.Write)),
	}
}
