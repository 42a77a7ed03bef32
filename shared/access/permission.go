package access

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Action is what is done to an object.
type Action string

// The actions there are. Write implies read.
const (
	Read         Action = "read"
	Write        Action = "write"
	Authenticate Action = "authenticate"
	Validate     Action = "validate"
	Revoke       Action = "revoke"
)

// Any is the object id that stands for every object of a type; ids stay exact in JSON numbers.
const (
	Any   int64 = 0
	maxID int64 = 1<<53 - 1
)

// Entry is a row of the permission catalogue: a type of object and what can be done to it.
type Entry struct {
	Type        string
	Actions     []Action
	Description string
}

// Catalogue is every permission there is. What is not in it can be neither granted nor asked for.
var Catalogue = []Entry{
	{"certs", []Action{Read, Write}, "Certificates: list and export with read; issue, renew, assign and delete with write."},
	{"devices", []Action{Read, Write}, "Devices: list with read; register, assign to, configure and revoke with write."},
	{"cas", []Action{Read, Write}, "Private CAs: list with read; create, issue from and delete with write."},
	{"apikeys", []Action{Read, Write}, "API keys: list with read; create, roll and delete with write."},
	{"acme_accounts", []Action{Read, Write}, "Accounts at ACME CAs: list with read; create, change and delete with write."},
	{"dns_providers", []Action{Read, Write}, "DNS providers: list with read; create, change, test and delete with write."},
	{"webhooks", []Action{Read, Write}, "Webhooks: list with their deliveries with read; create, change, test, replay and delete with write."},
	{"gitrepos", []Action{Read, Write}, "Git repositories: clone and fetch with read; create and push with write."},
	{"ForDeviceAuthenticate", []Action{Authenticate, Validate, Revoke}, "Devices of one's own: register without a code, check, and delete those the key registered."},
}

func entry(objectType string) (Entry, bool) {
	i := slices.IndexFunc(Catalogue, func(e Entry) bool { return e.Type == objectType })
	if i < 0 {
		return Entry{}, false
	}
	return Catalogue[i], true
}

// Permission is an object, by type and id, and the actions allowed on it.
type Permission struct {
	Type    string
	ID      int64 // Any for every object of the type
	Actions []Action
}

// Need is one question: may the caller do this to that object?
type Need struct {
	Type   string
	Action Action
	ID     int64
}

// String is the need as it is named to people: certs.write, or certs.write:12 for one object.
func (n Need) String() string {
	s := n.Type + "." + string(n.Action)
	if n.ID != Any {
		s += ":" + strconv.FormatInt(n.ID, 10)
	}
	return s
}

// ParsePermission reads the shorthand certs.read, or certs.read:12.
func ParsePermission(s string) (Permission, error) {
	name, id, narrowed := strings.Cut(s, ":")
	objectType, action, ok := strings.Cut(name, ".")
	if !ok {
		return Permission{}, fmt.Errorf("permission %q is not of the form certs.read", s)
	}
	p := Permission{Type: objectType, Actions: []Action{Action(action)}}
	if narrowed {
		n, err := strconv.ParseInt(id, 10, 64)
		if err != nil || n <= 0 || n > maxID || id[0] == '+' || id[0] == '0' {
			return Permission{}, fmt.Errorf("permission %q: the id must be a positive integer", s)
		}
		p.ID = n
	}
	return p, nil
}

// Permissions is what a caller holds, in the one encoding that is stored, handed from the authorizer
// to the functions and asked: "certs:*:read,write;devices:88:read", or "*" for everything.
// Permission types, ids and actions hold no separator, so it parses in one way.
type Permissions string

// Everything is what a user's own session holds.
const Everything Permissions = "*"

// Encode checks each permission against the catalogue, joins those of the same object and sorts them.
// The error names the first that is unknown and is meant for the caller.
func Encode(list []Permission) (Permissions, error) {
	byObject := map[string][]Action{}
	for _, p := range list {
		e, ok := entry(p.Type)
		if !ok {
			return "", fmt.Errorf("unknown obtype %q", p.Type)
		}
		if p.ID < 0 || p.ID > maxID {
			return "", fmt.Errorf("obid of %s must be a positive integer or \"*\"", p.Type)
		}
		if len(p.Actions) == 0 {
			return "", fmt.Errorf("actions of %s must not be empty", p.Type)
		}
		object := p.Type + ":" + object(p.ID)
		for _, a := range p.Actions {
			if !slices.Contains(e.Actions, a) {
				return "", fmt.Errorf("unknown action %q of %s", a, p.Type)
			}
			if !slices.Contains(byObject[object], a) {
				byObject[object] = append(byObject[object], a)
			}
		}
	}
	parts := make([]string, 0, len(byObject))
	for object, actions := range byObject {
		slices.Sort(actions)
		names := make([]string, len(actions))
		for i, a := range actions {
			names[i] = string(a)
		}
		parts = append(parts, object+":"+strings.Join(names, ","))
	}
	slices.Sort(parts)
	return Permissions(strings.Join(parts, ";")), nil
}

func object(id int64) string {
	if id == Any {
		return "*"
	}
	return strconv.FormatInt(id, 10)
}

// List is p as a list; of Everything, the whole catalogue.
func (p Permissions) List() []Permission {
	list := []Permission{}
	if p == Everything {
		for _, e := range Catalogue {
			list = append(list, Permission{Type: e.Type, Actions: slices.Clone(e.Actions)})
		}
		return list
	}
	for part := range strings.SplitSeq(string(p), ";") {
		objectType, rest, ok := strings.Cut(part, ":")
		id, actions, ok2 := strings.Cut(rest, ":")
		if !ok || !ok2 {
			continue
		}
		held := Permission{Type: objectType}
		if id != "*" {
			n, err := strconv.ParseInt(id, 10, 64)
			if err != nil || n <= 0 {
				continue
			}
			held.ID = n
		}
		for a := range strings.SplitSeq(actions, ",") {
			held.Actions = append(held.Actions, Action(a))
		}
		list = append(list, held)
	}
	return list
}

// Allow answers a need: by a permission for every object of the type, or for this one. A need for
// Any is met only by a permission for every object.
func (p Permissions) Allow(need Need) bool {
	for _, held := range p.List() {
		if held.Type != need.Type || held.ID != Any && held.ID != need.ID {
			continue
		}
		if slices.Contains(held.Actions, need.Action) || need.Action == Read && slices.Contains(held.Actions, Write) {
			return true
		}
	}
	return false
}

// Lacks returns what of granted p does not hold, and whether there is any: nobody grants more than
// they hold.
func (p Permissions) Lacks(granted Permissions) (Need, bool) {
	for _, g := range granted.List() {
		for _, a := range g.Actions {
			if need := (Need{g.Type, a, g.ID}); !p.Allow(need) {
				return need, true
			}
		}
	}
	return Need{}, false
}
