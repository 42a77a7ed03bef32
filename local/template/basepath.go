package template

import (
	"fmt"
	"regexp"

	"go.yaml.in/yaml/v3"
)

const mappingKind = "AWS::ApiGateway::BasePathMapping"

// basePaths are what API Gateway allows of a base path.
var basePaths = regexp.MustCompile(`^[A-Za-z0-9$_.+!*'()-]+$`)

// readBasePaths reads where a domain of one's own has each API. A mapping counts though its condition is
// false: this machine serves all APIs at one address, as such a domain would.
func (r *reader) readBasePaths(apis apiReaders) error {
	mapped := map[*API]bool{}
	for _, d := range r.order {
		if d.kind != mappingKind || d.properties == nil {
			continue
		}
		api, path, err := r.mapping(apis, d)
		if err != nil {
			return err
		}
		if api == nil {
			continue
		}
		if mapped[api] && api.BasePath != path {
			return r.errorf(d.at, "%s: %s has two base paths, which is not understood here", d.id, api.LogicalID)
		}
		api.BasePath, mapped[api] = path, true
	}
	return nil
}

// mapping reads one mapping: the API, nil when it is none of this stack, and its base path. The other
// properties may refer to what is absent with it.
func (r *reader) mapping(apis apiReaders, d *resource) (*API, string, error) {
	resolved := map[string]string{}
	for key, value := range pairs(d.properties) {
		if key.Value != "RestApiId" && key.Value != "BasePath" {
			continue
		}
		value, err := r.eval(value)
		if err != nil && d.met {
			return nil, "", err
		}
		if err == nil && value != noValue && value.Kind == yaml.ScalarNode {
			resolved[key.Value] = value.Value
		}
	}
	path := resolved["BasePath"]
	if path == "(none)" {
		path = ""
	}
	if path != "" && !basePaths.MatchString(path) {
		return nil, "", r.errorf(d.at, "%s: %q is not a base path of API Gateway", d.id, path)
	}
	for _, reader := range apis {
		if reader.api.ID == resolved["RestApiId"] {
			return reader.api, path, nil
		}
	}
	return nil, "", nil
}

// place puts an API at the root or behind its base path.
func (t *Template) place(api *API) error {
	if api.BasePath == "" {
		if t.API != nil {
			return fmt.Errorf("a second API without a base path (%s beside %s) is not understood here", api.LogicalID, t.API.LogicalID)
		}
		t.API = api
		return nil
	}
	for _, other := range t.Mapped {
		if other.BasePath == api.BasePath {
			return fmt.Errorf("a second API at /%s (%s beside %s): a domain has one at a base path", api.BasePath, api.LogicalID, other.LogicalID)
		}
	}
	t.Mapped = append(t.Mapped, api)
	return nil
}
