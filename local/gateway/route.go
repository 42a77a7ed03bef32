package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"cjj365.cc/bb/local/template"
)

// methods are what ANY stands for.
var methods = []string{"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}

// A resource is a path with its methods.
type resource struct {
	id, path   string
	parameters []string // names in the order of the path
	methods    map[string]*template.Route
	preflight  http.Header // nil when OPTIONS is not answered here
}

// method finds the route of a method. preflight tells that the gateway answers OPTIONS itself.
func (r *resource) method(name string) (route *template.Route, preflight bool) {
	if route := r.methods[name]; route != nil {
		return route, false
	}
	if name == http.MethodOptions && r.preflight != nil {
		return nil, true
	}
	if slices.Contains(methods, name) {
		return r.methods["ANY"], false
	}
	return nil, false
}

// A node is a segment of the paths, or the root before the first.
type node struct {
	static    map[string]*node
	parameter *node     // for a {name}
	greedy    *resource // for a {name+} below
	resource  *resource // when a path ends here
}

// routes builds the tree of an API's paths.
func routes(api *template.API) *node {
	root := &node{}
	for i := range api.Routes {
		route := &api.Routes[i]
		r := root.place(route.Path)
		if *r == nil {
			*r = newResource(route.Path, len(route.Path)+i)
		}
		(*r).methods[route.Method] = route
	}
	if api.CORS != nil {
		root.each(func(r *resource) { r.preflight = preflightHeaders(api.CORS, r) })
	}
	return root
}

func newResource(path string, seed int) *resource {
	r := &resource{id: "r" + strconv.FormatInt(int64(seed)+1<<24, 36), path: path, methods: map[string]*template.Route{}}
	for segment := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(segment, "{") {
			r.parameters = append(r.parameters, strings.TrimSuffix(segment[1:len(segment)-1], "+"))
		}
	}
	return r
}

// place finds where the resource of a path belongs, growing the tree on the way.
func (n *node) place(path string) **resource {
	for segment := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		switch {
		case segment == "":
		case strings.HasSuffix(segment, "+}"):
			return &n.greedy
		case strings.HasPrefix(segment, "{"):
			if n.parameter == nil {
				n.parameter = &node{}
			}
			n = n.parameter
		default:
			if n.static == nil {
				n.static = map[string]*node{}
			}
			if n.static[segment] == nil {
				n.static[segment] = &node{}
			}
			n = n.static[segment]
		}
	}
	return &n.resource
}

func (n *node) each(visit func(*resource)) {
	for _, r := range []*resource{n.resource, n.greedy} {
		if r != nil {
			visit(r)
		}
	}
	if n.parameter != nil {
		n.parameter.each(visit)
	}
	for _, child := range n.static {
		child.each(visit)
	}
}

// match finds the most specific resource for a path, with the values of its parameters: at each
// segment a literal one before a parameter, and that before a greedy one.
func (n *node) match(path string, values []string) (*resource, []string) {
	if path == "" || path == "/" {
		return n.resource, values
	}
	if path[0] != '/' {
		return nil, nil
	}
	segment, rest := path[1:], ""
	if end := strings.IndexByte(segment, '/'); end >= 0 {
		segment, rest = segment[:end], segment[end:]
	}
	segment = decoded(segment)
	if child := n.static[segment]; child != nil {
		if r, v := child.match(rest, values); r != nil {
			return r, v
		}
	}
	if n.parameter != nil && segment != "" {
		if r, v := n.parameter.match(rest, append(values, segment)); r != nil {
			return r, v
		}
	}
	if n.greedy != nil {
		return n.greedy, append(values, decoded(path[1:]))
	}
	return nil, nil
}

// decoded resolves percent escapes. What is no escape stays; net/http has refused most of that.
func decoded(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	if plain, err := url.PathUnescape(s); err == nil {
		return plain
	}
	return s
}
