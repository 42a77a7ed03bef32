package template

import "go.yaml.in/yaml/v3"

func (r *reader) key(d *resource, properties *yaml.Node) (Key, error) {
	k := Key{LogicalID: d.id, Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT"}
	err := r.fields(properties, d.id, fields{
		"KeySpec":  &k.Spec,
		"KeyUsage": &k.Usage,

		"BypassPolicyLockoutSafetyCheck": skipped,
		"Description":                    skipped,
		"EnableKeyRotation":              skipped,
		"KeyPolicy":                      skipped, // a role's own policies are checked here, no key's
		"PendingWindowInDays":            skipped,
		"RotationPeriodInDays":           skipped,
		"Tags":                           skipped,
	})
	if err != nil {
		return k, err
	}
	if k.ID, err = r.physical(d.at, d.id); err != nil {
		return k, err
	}
	k.ARN, err = r.attribute(d.at, d.id, "Arn")
	return k, err
}

// alias reads an alias; the key that it names may stand after it.
func (r *reader) alias(d *resource, properties *yaml.Node) (Alias, error) {
	var a Alias
	var target string
	if err := r.fields(properties, d.id, fields{"AliasName": &a.Name, "TargetKeyId": &target}); err != nil {
		return a, err
	}
	for _, other := range r.order {
		if other.kind != keyKind || !other.met {
			continue
		}
		id, err := r.physical(d.at, other.id)
		if err != nil {
			return a, err
		}
		arn, err := r.attribute(d.at, other.id, "Arn")
		if err != nil {
			return a, err
		}
		if target == id || target == arn {
			a.KeyID = id
			return a, nil
		}
	}
	return a, r.errorf(d.at, "%s: %q is not a key of this template", d.id, target)
}
