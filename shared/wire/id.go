package wire

import (
	"encoding/json"
	"errors"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
)

// ID is an id in a request body: a number, or the same as a decimal string (contract §0.2). 0 is none.
type ID int64

// Schema describes both spellings.
func (ID) Schema(huma.Registry) *huma.Schema {
	zero, most := 0.0, float64(1<<53-1)
	return &huma.Schema{OneOf: []*huma.Schema{
		{Type: huma.TypeInteger, Format: "int64", Minimum: &zero, Maximum: &most},
		{Type: huma.TypeString, Pattern: "^[0-9]{1,16}$"},
	}}
}

// UnmarshalJSON reads either.
func (id *ID) UnmarshalJSON(b []byte) error {
	text := string(b)
	if len(b) > 0 && b[0] == '"' {
		if err := json.Unmarshal(b, &text); err != nil {
			return err
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n >= 1<<53 {
		return errors.New("json: an id is a whole number")
	}
	*id = ID(n)
	return nil
}
