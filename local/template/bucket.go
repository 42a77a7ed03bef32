package template

import "go.yaml.in/yaml/v3"

func (r *reader) bucket(d *resource, properties *yaml.Node) (Bucket, error) {
	b := Bucket{LogicalID: d.id}
	err := r.fields(properties, d.id, fields{
		"BucketEncryption":               skipped,
		"BucketName":                     skipped, // read where names are resolved
		"LifecycleConfiguration":         skipped, // nothing lapses here
		"LoggingConfiguration":           skipped,
		"OwnershipControls":              skipped,
		"PublicAccessBlockConfiguration": skipped, // whoever has no role here reads nothing
		"Tags":                           skipped,
		"VersioningConfiguration":        skipped, // who asks for no version gets the latest
	})
	if err != nil {
		return b, err
	}
	if b.Name, err = r.physical(d.at, d.id); err != nil {
		return b, err
	}
	b.ARN, err = r.attribute(d.at, d.id, "Arn")
	return b, err
}
