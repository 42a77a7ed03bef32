package installconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"cjj365.cc/bb/shared/problem"
)

func parsed(t testing.TB, text string) []Item {
	t.Helper()
	items, err := Parse(json.RawMessage(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return items
}

const copyItem = `{"id":"c","type":"copy","ob_type":"cert","ob_id":1001,"from":["private.key","fullchain.pem"],"to":["/etc/k",""]}`

// Agents read every member without tolerance.
func TestTheFullForm(t *testing.T) {
	got := string(JSON(parsed(t, `[{"type":"exec","cmd":"a && b > c"}]`)))
	const want = `[{"id":"","type":"exec","enabled":true,"continue_on_error":false,"depends_on":[],"tags":[],"ob_type":"","ob_id":0,"ob_name":"","from":[],"to":[],` +
		`"cmd":"a && b > c","cmd_argv":[],"timeout_ms":0,"run_as":"","env":{},"verify":{}}]`
	if got != want {
		t.Errorf("%s", got)
	}
	if got := string(JSON(nil)); got != "[]" {
		t.Errorf("%s", got)
	}
	if text := string(JSON([]Item{{}})); strings.Contains(text, "null") {
		t.Errorf("%s", text)
	}
	const verify = `"verify":{"n":9007199254740993,"x":null}`
	kept := JSON(parsed(t, `[{"type":"exec","cmd":"a",`+verify+`}]`))
	if again, err := Decode(kept); err != nil || !strings.Contains(string(kept), verify) || !bytes.Equal(JSON(again), kept) {
		t.Errorf("%s, %v", kept, err)
	}
	nulls := parsed(t, `[{"id":null,"type":"copy","ob_type":"ca","ob_id":"7","from":null,"to":null,"env":null,"verify":null,"cmd":null,"enabled":null,"unknown":{"x":1}}]`)
	if text := string(JSON(nulls)); strings.Contains(text, "null") || nulls[0].Object != 7 || !nulls[0].Enabled {
		t.Errorf("%s", text)
	}
}

// Agents read arguments from an array in cmd, and ignore cmd_argv.
func TestCommands(t *testing.T) {
	for text, want := range map[string]string{
		`[{"type":"exec","cmd":["a","b c"]}]`:                                             `"cmd":["a","b c"],"cmd_argv":[]`,
		`[{"type":"exec","cmd_argv":["a","b"]}]`:                                          `"cmd":["a","b"],"cmd_argv":["a","b"]`,
		`[{"type":"exec","cmd":"x","cmd_argv":["a"]}]`:                                    `"cmd":["a"],"cmd_argv":["a"]`,
		`[{"type":"exec","enabled":false}]`:                                               `"cmd":"","cmd_argv":[]`,
		`[{"type":"exec","ob_type":"cert","ob_id":5,"cmd":"rm -rf /","cmd_argv":["rm"]}]`: `"cmd":"","cmd_argv":[]`, // agents would take it off
	} {
		if got := string(JSON(parsed(t, text))); !strings.Contains(got, want) {
			t.Errorf("%s: %s", text, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	long := strings.Repeat("x", maxText+1)
	for text, field := range map[string]string{
		`{}`: "installs", `null`: "installs", `"x"`: "installs", `[1]`: "installs[0]", `[null]`: "installs[0]",
		`[{}]`:                                                                                      "installs[0].type",
		`[{"type":"run"}]`:                                                                          "installs[0].type",
		`[{"type":7}]`:                                                                              "installs[0].type",
		`[{"type":"exec"}]`:                                                                         "installs[0].cmd",
		`[{"type":"exec","cmd":7}]`:                                                                 "installs[0].cmd",
		`[{"type":"exec","cmd":["a",1]}]`:                                                           "installs[0].cmd",
		`[{"type":"exec","cmd":"a\u0000"}]`:                                                         "installs[0].cmd",
		`[{"type":"exec","cmd":"a","enabled":"yes"}]`:                                               "installs[0].enabled",
		`[{"type":"exec","cmd":"a","timeout_ms":-1}]`:                                               "installs[0].timeout_ms",
		`[{"type":"exec","cmd":"a","timeout_ms":1.5}]`:                                              "installs[0].timeout_ms",
		`[{"type":"exec","cmd":"a","env":{"A=B":"c"}}]`:                                             "installs[0].env",
		`[{"type":"exec","cmd":"a","env":{"A":7}}]`:                                                 "installs[0].env",
		`[{"type":"exec","cmd":"a","env":{"A":null}}]`:                                              "installs[0].env",
		`[{"type":"exec","cmd":"a","verify":[]}]`:                                                   "installs[0].verify",
		`[{"type":"exec","cmd":"a","tags":["` + long + `"]}]`:                                       "installs[0].tags",
		`[{"type":"exec","cmd":"a","tags":[null]}]`:                                                 "installs[0].tags",
		`[{"type":"exec","cmd":"a","depends_on":["x"]}]`:                                            "installs[0].depends_on",
		`[{"id":"a","type":"exec","cmd":"a"},{"id":"a","type":"exec","cmd":"a"}]`:                   "installs[1].id",
		`[{"type":"copy","from":["ca.pem"],"to":["/x"]}]`:                                           "installs[0].ob_id",
		`[{"type":"copy","ob_type":"key","ob_id":1}]`:                                               "installs[0].ob_type",
		`[{"type":"copy","ob_type":"cert","ob_id":"x"}]`:                                            "installs[0].ob_id",
		`[{"type":"copy","ob_type":"cert","ob_id":9007199254740992}]`:                               "installs[0].ob_id",
		`[{"type":"copy","ob_type":"cert","ob_id":-1,"from":[],"to":[]}]`:                           "installs[0].ob_id",
		`[{"type":"copy","ob_type":"cert","ob_id":1,"from":["private.key"],"to":["/a","/b"]}]`:      "installs[0].to",
		`[{"type":"copy","ob_type":"cert","ob_id":1,"from":["private.key"],"to":["etc/k"]}]`:        "installs[0].to",
		`[{"type":"copy","ob_type":"cert","ob_id":1,"from":["../../secret"],"to":["/a"]}]`:          "installs[0].from",
		`[{"type":"copy","ob_type":"ca","ob_id":1,"from":["private.key"],"to":["/a"]}]`:             "installs[0].from",
		`[{"type":"import_ca","ob_type":"cert","ob_id":1}]`:                                         "installs[0].ob_type",
		`[{"type":"import_ca","ob_type":"ca"}]`:                                                     "installs[0].ob_id",
		`[{"type":"import_ca","ob_type":"ca","ob_id":1,"from":["meta.json"],"to":["/x"]}]`:          "installs[0].from",
		`[{"type":"exec","cmd":"a","ob_id":"+7"}]`:                                                  "installs[0].ob_id",
		`[{"type":"exec","cmd":"a","verify":{"x":"` + strings.Repeat("x", maxCommand) + `"}}]`:      "installs[0].verify",
		`[{"type":"exec","cmd":["` + strings.Repeat(`a","`, maxArguments) + `a"]}]`:                 "installs[0].cmd",
		`[{"type":"import_ca"}]`:                                                                    "installs[0].ob_type",
		`[` + strings.Repeat(`{"type":"exec","cmd":"a"},`, maxItems) + `{"type":"exec","cmd":"a"}]`: "installs",
	} {
		_, err := Parse(json.RawMessage(text))
		var p *problem.Error
		if !errors.As(err, &p) || p.Status != 400 || p.Params["field"] != field || !strings.HasPrefix(p.What, field+":") {
			t.Errorf("%.120s: %v, want %s", text, err, field)
		}
	}
	for text, kind := range map[string]*problem.Kind{
		`[1]`: problem.TypeConvert, `[{"type":7}]`: problem.TypeConvert, `[{}]`: problem.MissingField, `[{"type":"exec"}]`: problem.MissingField,
		`[{"type":"run"}]`: problem.InvalidArgument,
	} {
		if _, err := Parse(json.RawMessage(text)); !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", text, err, kind)
		}
	}
	for _, path := range []string{`C:\\`, `C:\\x`, `c:/x`, `\\\\server\\share`, `/`} {
		parsed(t, `[{"type":"copy","ob_type":"cert","ob_id":1,"from":["private.key"],"to":["`+path+`"]}]`)
	}
}

func TestTheSameIsTheSame(t *testing.T) {
	items := parsed(t, `[`+copyItem+`]`)
	spelt := parsed(t, `[{"to":["/etc/k",""],"from":["private.key","fullchain.pem"],"ob_id":"1001","ob_type":"cert","type":"copy","id":"c","enabled":true,"x":1}]`)
	c := Config{Items: items, Script: "a\r\n"}
	if Hash(items) != Hash(spelt) || !c.Same(spelt, "a\r\n") || c.Same(spelt, "a\n") || c.Same(nil, "a\r\n") {
		t.Error("the same is another, or the other way round")
	}
	again, err := Decode(JSON(items))
	if err != nil || !bytes.Equal(JSON(again), JSON(items)) {
		t.Errorf("%s, %v", JSON(again), err)
	}
	if got := References(append(items, parsed(t, `[`+copyItem+`,{"type":"import_ca","ob_type":"ca","ob_id":3},{"type":"exec","cmd":"x"}]`)...)); !slices.Equal(got, []Object{{"cert", 1001}, {"ca", 3}}) {
		t.Errorf("%v", got)
	}
}

func TestPatches(t *testing.T) {
	items := parsed(t, `[`+copyItem+`,{"id":"e","type":"exec","ob_type":"ca","ob_id":3,"cmd_argv":["old"]},{"id":"f","type":"exec","ob_type":"ca","ob_id":3,"cmd":"old"}]`)
	before := string(JSON(items))
	apply := func(text string) ([]Item, int) {
		t.Helper()
		patches, _, err := ParsePatches(json.RawMessage(text))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		changed, n, err := Apply(items, patches)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return changed, n
	}
	changed, n := apply(`[{"ob_type":"ca","ob_id":"3","cmd":"new","timeout_ms":5,"to":["/etc/passwd"],"enabled":false}]`)
	if n != 2 || changed[1].Command.Line != "new" || len(changed[1].Arguments) != 0 || changed[2].Timeout != 5 || len(changed[2].To) != 0 || changed[2].Enabled {
		t.Errorf("%d %s", n, JSON(changed))
	}
	changed, n = apply(`{"patches":[{"ob_type":"ca","ob_id":3,"id":"f","cmd_argv":["a","b"],"env":{"A":"b"}}]}`)
	if n != 1 || !slices.Equal(changed[2].Command.Argv, []string{"a", "b"}) || changed[2].Environment["A"] != "b" || changed[1].Command.Argv[0] != "old" {
		t.Errorf("%d %s", n, JSON(changed))
	}
	if _, n := apply(`[{"ob_type":"cert","ob_id":7,"enabled":false}]`); n != 0 {
		t.Errorf("%d items matched", n)
	}
	if string(JSON(items)) != before {
		t.Error("the list that was given is another")
	}
	for text, want := range map[string]string{`{"after_update_script":null}`: "", `{"after_update_script":"x\r\n"}`: "x\r\n"} {
		if _, script, err := ParsePatches(json.RawMessage(text)); err != nil || script == nil || script.Text != want {
			t.Errorf("%s: %v, %v", text, script, err)
		}
	}
	for _, text := range []string{`{}`, `7`, `null`, `{"patches":null}`, `{"patches":7}`, `[7]`, `[{}]`, `[{"ob_type":"cert","ob_id":0}]`, `[{"ob_type":"x","ob_id":1}]`, `[{"ob_type":"cert","ob_id":1,"cmd":"x"}]`,
		`[{"ob_type":"cert","ob_id":1,"cmd_argv":["x"]}]`, `{"after_update_script":7}`, `[{"ob_type":["cert"],"ob_id":1}]`} {
		if p, _, err := ParsePatches(json.RawMessage(text)); err == nil {
			t.Errorf("%s: %v", text, p)
		}
	}
	patches, _, _ := ParsePatches(json.RawMessage(`[{"ob_type":"ca","ob_id":3,"type":"run"}]`))
	if _, _, err := Apply(items, patches); err == nil {
		t.Error("a patch makes what a PUT may not")
	}
	many := slices.Repeat(items[2:], 100)
	for i := range many {
		many[i].ID = ""
	}
	patches, _, _ = ParsePatches(json.RawMessage(`[{"ob_type":"ca","ob_id":3,"env":{"A":"` + strings.Repeat("x", 4000) + `"}}]`))
	if _, _, err := Apply(many, patches); !errors.Is(err, problem.InvalidArgument) {
		t.Errorf("a patch makes more than can be stored: %v", err)
	}
}

func TestScripts(t *testing.T) {
	for text, ok := range map[string]bool{"": true, "@@@BEGIN posix.sh\r\necho\r\n@@@END": true, "a\x00": false, "\xff": false, strings.Repeat("x", maxScript+1): false} {
		if err := CheckScript(text); (err == nil) != ok {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

// Whatever is taken is stored in full, and means the same when it comes back.
func FuzzParse(f *testing.F) {
	f.Add(`[` + copyItem + `]`)
	f.Add(`[{"type":"exec","cmd":["a"],"env":{"A":"b"},"verify":{"x":[1,null]}}]`)
	f.Add(`[{"type":"import_ca","ob_type":"ca","ob_id":"3","from":["ca.pem"]}]`)
	f.Fuzz(func(t *testing.T, text string) {
		items, err := Parse(json.RawMessage(text))
		if err != nil {
			return
		}
		once := JSON(items)
		again, err := Parse(once)
		if err != nil {
			t.Fatalf("%s is refused: %v", once, err)
		}
		decoded, err := Decode(once)
		if err != nil || !bytes.Equal(JSON(again), once) || !bytes.Equal(JSON(decoded), once) {
			t.Errorf("%s is %s, %s, %v", once, JSON(again), JSON(decoded), err)
		}
	})
}
