package installconfig

import (
	"encoding/json"
	"fmt"
	"slices"

	"cjj365.cc/bb/shared/problem"
)

// Patch changes some members of the items that are about a thing (contract §17).
type Patch struct {
	object  Object
	id      string
	changes map[string]json.RawMessage // of the members that may be patched
}

// ScriptChange is a change of the script.
type ScriptChange struct{ Text string } // empty to remove it

// patchable are the members that a patch may change.
var patchable = []string{"type", "enabled", "cmd", "cmd_argv", "timeout_ms", "env"}

// ParsePatches reads a list of patches, or an object with it and a script.
func ParsePatches(raw json.RawMessage) (patches []Patch, script *ScriptChange, err error) {
	var list []map[string]json.RawMessage
	if json.Unmarshal(raw, &list) != nil || list == nil {
		var body map[string]json.RawMessage
		if json.Unmarshal(raw, &body) != nil || body == nil {
			return nil, nil, problem.TypeConvert.New("An array of patches, or an object with patches and after_update_script.")
		}
		inner, has := body["patches"]
		if has && (json.Unmarshal(inner, &list) != nil || list == nil) {
			return nil, nil, problem.TypeConvert.New("patches: an array of objects.").With("field", "patches")
		}
		text, scripted := body["after_update_script"]
		if scripted {
			var s *string
			if json.Unmarshal(text, &s) != nil {
				return nil, nil, problem.TypeConvert.New("after_update_script: text or null.").With("field", "after_update_script")
			}
			script = &ScriptChange{}
			if s != nil {
				script.Text = *s
			}
		}
		if !has && !scripted {
			return nil, nil, problem.MissingField.New("patches: or after_update_script. There is nothing to change.").With("field", "patches")
		}
	}
	if len(list) > maxItems {
		return nil, nil, problem.InvalidArgument.New("patches: %d at most.", maxItems).With("field", "patches")
	}
	for i, members := range list {
		p, err := parsePatch(i, members)
		if err != nil {
			return nil, nil, err
		}
		patches = append(patches, p)
	}
	return patches, script, nil
}

func parsePatch(i int, members map[string]json.RawMessage) (Patch, error) {
	bad := func(member, what string) error {
		field := fmt.Sprintf("patches[%d].%s", i, member)
		return problem.InvalidArgument.New("%s: %s", field, what).With("field", field)
	}
	var about Item
	for n, member := range map[int]string{0: "id", 6: "ob_type", 7: "ob_id"} {
		if value, ok := members[member]; ok && string(value) != "null" {
			if err := about.set(n, member, value); err != nil {
				return Patch{}, bad(member, "a value of another type is needed.")
			}
		}
	}
	p := Patch{object: Object{about.ObjectType, about.Object}, id: about.ID, changes: map[string]json.RawMessage{}}
	switch {
	case files[p.object.Type] == nil:
		return p, bad("ob_type", "cert or ca.")
	case p.object.ID <= 0 || p.object.ID >= 1<<53:
		return p, bad("ob_id", "a positive whole number.")
	}
	for _, member := range patchable {
		value, ok := members[member]
		if !ok || string(value) == "null" {
			continue
		}
		if p.object.Type == "cert" && (member == "cmd" || member == "cmd_argv") {
			return p, bad(member, "items of certificates run no commands. Add an exec item.")
		}
		p.changes[member] = value
	}
	return p, nil
}

// matches tells whether a patch is about an item.
func (p Patch) matches(it Item) bool {
	return it.ObjectType == p.object.Type && it.Object == p.object.ID && (p.id == "" || p.id == it.ID)
}

// Apply patches a list, and tells how many items some patch was about. The list that it is given stays as it is.
func Apply(items []Item, patches []Patch) (changed []Item, matched int, err error) {
	changed = slices.Clone(items)
	for i, it := range items {
		touched := false
		members := map[string]json.RawMessage{}
		if err := json.Unmarshal(encode(it), &members); err != nil {
			return nil, 0, err
		}
		for _, p := range patches {
			if !p.matches(it) {
				continue
			}
			touched = true
			_, line := p.changes["cmd"]
			_, argv := p.changes["cmd_argv"]
			if line || argv { // the one that was patched last is what is run
				delete(members, "cmd")
				delete(members, "cmd_argv")
			}
			for member, value := range p.changes {
				members[member] = value
			}
		}
		if !touched {
			continue
		}
		matched++
		if changed[i], err = parse(i, encode(members)); err != nil {
			return nil, 0, err
		}
	}
	return changed, matched, lint(changed)
}
