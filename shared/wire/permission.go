package wire

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"cjj365.cc/bb/shared/access"
)

// Permission is an access.Permission on the wire: {"obtype":"certs","obid":"*","actions":["read"]},
// where obid may be a number, and in requests also the shorthand "certs.read" (contract §6.4).
type Permission access.Permission

type permissionObject struct {
	Type    string          `json:"obtype"`
	ID      any             `json:"obid"`
	Actions []access.Action `json:"actions"`
}

// Schema describes both spellings.
func (Permission) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{OneOf: []*huma.Schema{
		{Type: huma.TypeString, Description: "Shorthand: type and action, such as certs.read, and maybe an id: certs.read:12.", Examples: []any{"certs.read"}},
		{
			Type: huma.TypeObject, Required: []string{"obtype", "obid", "actions"}, AdditionalProperties: true,
			Properties: map[string]*huma.Schema{
				"obtype":  {Type: huma.TypeString},
				"obid":    {OneOf: []*huma.Schema{{Type: huma.TypeString}, {Type: huma.TypeInteger, Format: "int64"}}, Description: "The object's id, or * for every object of the type."},
				"actions": {Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeString}},
			},
		},
	}}
}

// MarshalJSON writes the object form.
func (p Permission) MarshalJSON() ([]byte, error) {
	w := permissionObject{Type: p.Type, ID: "*", Actions: p.Actions}
	if p.ID != access.Any {
		w.ID = p.ID
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads either form. What cannot be a permission is kept as one that the catalogue does
// not have, or with the id -1: access.Encode refuses both with a sentence.
func (p *Permission) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var shorthand string
		if err := json.Unmarshal(b, &shorthand); err != nil {
			return err
		}
		parsed, err := access.ParsePermission(shorthand)
		if err != nil {
			parsed = access.Permission{Type: shorthand}
		}
		*p = Permission(parsed)
		return nil
	}
	var w permissionObject
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.UseNumber()
	if err := decoder.Decode(&w); err != nil {
		return err
	}
	*p = Permission{Type: w.Type, ID: objectID(w.ID), Actions: w.Actions}
	return nil
}

func objectID(id any) int64 {
	text, _ := id.(string)
	if n, ok := id.(json.Number); ok {
		text = n.String()
	}
	if text == "*" {
		return access.Any
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 || strconv.FormatInt(n, 10) != text {
		return -1
	}
	return n
}
