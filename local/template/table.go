package template

import "go.yaml.in/yaml/v3"

func (r *reader) table(d *resource, properties *yaml.Node) (Table, error) {
	t := Table{LogicalID: d.id}
	var billing string
	err := r.fields(properties, d.id, fields{
		"AttributeDefinitions":   func(n *yaml.Node) error { return r.attributes(n, &t.Attributes) },
		"BillingMode":            &billing,
		"GlobalSecondaryIndexes": func(n *yaml.Node) error { return r.indexes(n, &t.GlobalIndexes) },
		"KeySchema":              func(n *yaml.Node) error { return r.keySchema(n, &t.Key) },
		"LocalSecondaryIndexes":  func(n *yaml.Node) error { return r.indexes(n, &t.LocalIndexes) },
		"ProvisionedThroughput":  func(n *yaml.Node) error { return r.throughput(n, &t.Throughput) },
		"StreamSpecification": func(n *yaml.Node) error {
			return r.fields(n, "StreamSpecification", fields{"StreamViewType": &t.StreamView})
		},
		"TimeToLiveSpecification": func(n *yaml.Node) error { return r.timeToLive(n, &t.TTLAttribute) },

		"ContributorInsightsSpecification": skipped,
		"DeletionProtectionEnabled":        skipped,
		"OnDemandThroughput":               skipped,
		"PointInTimeRecoverySpecification": skipped,
		"SSESpecification":                 skipped,
		"TableClass":                       skipped,
		"TableName":                        skipped, // read where names are resolved
		"Tags":                             skipped,
	})
	if err != nil {
		return t, err
	}
	if len(t.Key) == 0 {
		return t, r.errorf(d.at, "%s has no KeySchema", d.id)
	}
	if (billing == "PAY_PER_REQUEST") != (t.Throughput == nil) {
		return t, r.errorf(d.at, "%s: ProvisionedThroughput and BillingMode contradict each other", d.id)
	}
	if t.Name, err = r.physical(d.at, d.id); err != nil {
		return t, err
	}
	t.ARN, err = r.attribute(d.at, d.id, "Arn")
	return t, err
}

func (r *reader) attributes(n *yaml.Node, attributes *[]Attribute) error {
	return r.each(n, "AttributeDefinitions", func(n *yaml.Node) error {
		var a Attribute
		err := r.fields(n, "AttributeDefinitions", fields{"AttributeName": &a.Name, "AttributeType": &a.Type})
		*attributes = append(*attributes, a)
		return err
	})
}

func (r *reader) keySchema(n *yaml.Node, key *[]KeyPart) error {
	return r.each(n, "KeySchema", func(n *yaml.Node) error {
		var p KeyPart
		err := r.fields(n, "KeySchema", fields{"AttributeName": &p.Attribute, "KeyType": &p.Kind})
		*key = append(*key, p)
		return err
	})
}

func (r *reader) indexes(n *yaml.Node, indexes *[]Index) error {
	return r.each(n, "an index", func(n *yaml.Node) error {
		var i Index
		err := r.fields(n, "an index", fields{
			"IndexName": &i.Name,
			"KeySchema": func(n *yaml.Node) error { return r.keySchema(n, &i.Key) },
			"Projection": func(n *yaml.Node) error {
				return r.fields(n, "Projection", fields{"ProjectionType": &i.Projection, "NonKeyAttributes": &i.NonKey})
			},
			"ProvisionedThroughput":            func(n *yaml.Node) error { return r.throughput(n, &i.Throughput) },
			"ContributorInsightsSpecification": skipped,
			"OnDemandThroughput":               skipped,
		})
		*indexes = append(*indexes, i)
		return err
	})
}

func (r *reader) throughput(n *yaml.Node, t **Throughput) error {
	*t = &Throughput{}
	return r.fields(n, "ProvisionedThroughput", fields{"ReadCapacityUnits": &(*t).Read, "WriteCapacityUnits": &(*t).Write})
}

func (r *reader) timeToLive(n *yaml.Node, attribute *string) error {
	var name string
	var enabled bool
	err := r.fields(n, "TimeToLiveSpecification", fields{"AttributeName": &name, "Enabled": &enabled})
	if enabled {
		*attribute = name
	}
	return err
}
