// Package installconfig is what a device is to install where, by version.
//
// A config is a list of items: files that are copied out of a certificate or a CA that the device has, commands that are
// run, CAs that the device is to trust. It is stored and shown in full form: every member of every item is there, with
// its default if it was not given, because agents read them without tolerance (contract §13.5). Each change makes the
// next version.
package installconfig

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"cjj365.cc/bb/shared/problem"
)

// Item is one thing to do.
type Item struct {
	ID              string            `json:"id"`
	Type            string            `json:"type"`
	Enabled         bool              `json:"enabled"`
	ContinueOnError bool              `json:"continue_on_error"`
	DependsOn       []string          `json:"depends_on"`
	Tags            []string          `json:"tags"`
	ObjectType      string            `json:"ob_type"`
	Object          int64             `json:"ob_id"`
	ObjectName      string            `json:"ob_name"`
	From            []string          `json:"from"`
	To              []string          `json:"to"`
	Command         Command           `json:"cmd"`
	Arguments       []string          `json:"cmd_argv"`
	Timeout         int64             `json:"timeout_ms"` // 0 for 30 seconds
	RunAs           string            `json:"run_as"`
	Environment     map[string]string `json:"env"`
	Verify          map[string]any    `json:"verify"`
}

// Command is a line for a shell, or a list of arguments.
type Command struct {
	Line string
	Argv []string // in place of Line, unless nil
}

// MarshalJSON writes a string or an array.
func (c Command) MarshalJSON() ([]byte, error) {
	if c.Argv != nil {
		return encode(c.Argv), nil
	}
	return encode(c.Line), nil
}

// UnmarshalJSON reads either.
func (c *Command) UnmarshalJSON(b []byte) error {
	*c = Command{}
	if len(b) > 0 && b[0] == '[' {
		return json.Unmarshal(b, &c.Argv)
	}
	return json.Unmarshal(b, &c.Line)
}

func (c Command) empty() bool { return c.Line == "" && len(c.Argv) == 0 }

// encode writes JSON as agents and people read it: nothing escaped that need not be.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil { // of values that were decoded from JSON
		panic(err)
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

// decode reads JSON. The numbers of verify stay as they are written: a float64 would round them.
func decode(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return d.Decode(v)
}

// JSON is the list in its one spelling.
func JSON(items []Item) []byte {
	full := make([]Item, len(items))
	for i, it := range items {
		it.fill()
		full[i] = it
	}
	return encode(full)
}

// Hash is the digest of a list: base64 of the SHA-256 of its JSON.
func Hash(items []Item) string {
	digest := sha256.Sum256(JSON(items))
	return base64.StdEncoding.EncodeToString(digest[:])
}

// Decode reads what JSON wrote.
func Decode(text []byte) ([]Item, error) {
	var items []Item
	if err := decode(text, &items); err != nil {
		return nil, err
	}
	for i := range items {
		items[i].fill()
	}
	return items, nil
}

// fill gives what is absent its empty form.
func (it *Item) fill() {
	for _, list := range []*[]string{&it.DependsOn, &it.Tags, &it.From, &it.To, &it.Arguments} {
		if *list == nil {
			*list = []string{}
		}
	}
	if it.Environment == nil {
		it.Environment = map[string]string{}
	}
	if it.Verify == nil {
		it.Verify = map[string]any{}
	}
}

// Object is a thing that items are about.
type Object struct {
	Type string // cert or ca
	ID   int64
}

// References are the things that a list is about, each once.
func References(items []Item) []Object {
	var all []Object
	for _, it := range items {
		if o := (Object{it.ObjectType, it.Object}); o.ID > 0 && o.Type != "" && !slices.Contains(all, o) {
			all = append(all, o)
		}
	}
	return all
}

// Config is one version of what a device is to install. The zero Config is that of a device that nothing was said to.
type Config struct {
	ID        int64
	Device    int64
	Version   int64 // 1 is the first
	Items     []Item
	Script    string // after_update_script, to the byte as it was sent
	Note      string
	UpdatedBy string
	CreatedAt time.Time // of version 1
	UpdatedAt time.Time
}

// Same tells whether a config says the same.
func (c Config) Same(items []Item, script string) bool {
	return c.Script == script && bytes.Equal(JSON(c.Items), JSON(items))
}

// The limits of a config.
const (
	maxItems     = 200
	maxPairs     = 64
	maxArguments = 256
	maxVariables = 128
	maxText      = 4096
	maxCommand   = 16384
	maxScript    = 32 << 10
	maxTimeout   = 3600000
	maxList      = 300 << 10 // of JSON: an item of the table has 400 KB, and the script is in it
)

// CheckScript refuses a script that cannot be given to agents as it is.
func CheckScript(s string) error {
	if len(s) > maxScript || !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return problem.InvalidArgument.New("after_update_script: text of %d bytes at most.", maxScript).With("field", "after_update_script")
	}
	return nil
}

// refuse is a refusal of a member of an item.
func refuse(i int, member, format string, arguments ...any) error {
	return refusal(problem.InvalidArgument, i, member, format, arguments...)
}

func refusal(kind *problem.Kind, i int, member, format string, arguments ...any) error {
	field := fmt.Sprintf("installs[%d]", i)
	if member != "" {
		field += "." + member
	}
	return kind.New("%s: %s", field, fmt.Sprintf(format, arguments...)).With("field", field)
}

// Parse reads a list, gives what is left out its default, and refuses what agents could not carry out.
func Parse(raw json.RawMessage) ([]Item, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil || list == nil {
		return nil, problem.TypeConvert.New("installs: an array of items.").With("field", "installs")
	}
	if len(list) > maxItems {
		return nil, problem.InvalidArgument.New("installs: %d items at most.", maxItems).With("field", "installs")
	}
	items := make([]Item, len(list))
	for i, text := range list {
		var err error
		if items[i], err = parse(i, text); err != nil {
			return nil, err
		}
	}
	return items, lint(items)
}

// parse reads one item.
func parse(i int, text json.RawMessage) (Item, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil || members == nil {
		return Item{}, refusal(problem.TypeConvert, i, "", "an object.")
	}
	it := Item{Enabled: true}
	kind := reflect.TypeFor[Item]()
	for n := range kind.NumField() {
		name, _, _ := strings.Cut(kind.Field(n).Tag.Get("json"), ",")
		value, ok := members[name]
		if !ok || string(value) == "null" {
			continue
		}
		if err := it.set(n, name, value); err != nil {
			return it, refusal(problem.TypeConvert, i, name, "a value of another type is needed.")
		}
	}
	it.fill()
	if len(it.Arguments) > 0 { // agents read the array in cmd, and nothing else
		it.Command = Command{Argv: it.Arguments}
	}
	if it.ObjectType == "cert" { // agents take commands off items of certificates
		it.Command, it.Arguments = Command{}, []string{}
	}
	return it, nil
}

// set reads the member of a field.
func (it *Item) set(field int, name string, value json.RawMessage) error {
	if name == "ob_id" && value[0] == '"' { // ids may be strings
		var text string
		if err := json.Unmarshal(value, &text); err != nil {
			return err
		}
		n, err := strconv.ParseUint(text, 10, 63)
		it.Object = int64(n)
		return err
	}
	if name == "verify" && value[0] != '{' {
		return fmt.Errorf("%s is no object", name)
	}
	if name != "verify" && value[0] != '"' && bytes.Contains(value, []byte("null")) {
		if err := noNulls(value); err != nil {
			return err
		}
	}
	return decode(value, reflect.ValueOf(it).Elem().Field(field).Addr().Interface())
}

// noNulls refuses lists and maps of strings with a null, which Go would read as an empty string.
func noNulls(value json.RawMessage) error {
	var list []any
	var members map[string]any
	if json.Unmarshal(value, &list) == nil && slices.Contains(list, any(nil)) {
		return fmt.Errorf("a null")
	}
	if json.Unmarshal(value, &members) == nil {
		for _, member := range members {
			if member == nil {
				return fmt.Errorf("a null")
			}
		}
	}
	return nil
}

// files are the names that an object's files have for a device.
var files = map[string][]string{
	"cert": {"private.key", "certificate.pem", "chain.pem", "fullchain.pem", "certificate.der", "bundle.pfx", "meta.json"},
	"ca":   {"ca.pem", "ca.der", "meta.json"},
}

// imported are those of a CA that a trust store takes.
var imported = []string{"ca.pem", "ca.der"}

// lint checks what agents rely on.
func lint(items []Item) error {
	ids := map[string]bool{}
	for i, it := range items {
		if it.ID != "" && ids[it.ID] {
			return refuse(i, "id", "another item has it.")
		}
		ids[it.ID] = true
	}
	for i, it := range items {
		if err := it.lint(i); err != nil {
			return err
		}
		for _, on := range it.DependsOn {
			if on == "" || !ids[on] {
				return refuse(i, "depends_on", "no item has the id %q.", on)
			}
		}
	}
	if len(JSON(items)) > maxList { // a patch is multiplied by the items that it is about
		return problem.InvalidArgument.New("installs: %d bytes at most, in full form.", maxList).With("field", "installs")
	}
	return nil
}

func (it Item) lint(i int) error {
	if err := it.lintTexts(i); err != nil {
		return err
	}
	about := it.ObjectType != "" && it.Object > 0
	switch {
	case it.ObjectType != "" && files[it.ObjectType] == nil:
		return refuse(i, "ob_type", "cert or ca.")
	case it.Object < 0 || it.Object >= 1<<53:
		return refuse(i, "ob_id", "a positive whole number.")
	case it.Timeout < 0 || it.Timeout > maxTimeout:
		return refuse(i, "timeout_ms", "0 to %d.", maxTimeout)
	}
	switch it.Type {
	case "copy":
		if !about {
			return refusal(problem.MissingField, i, "ob_id", "a copy is of a cert or a ca: ob_type and ob_id say of which.")
		}
		if len(it.To) > 0 && len(it.From) != len(it.To) {
			return refuse(i, "to", "there must be as many as in from.")
		}
	case "import_ca":
		if it.ObjectType != "ca" {
			return refuse(i, "ob_type", "import_ca is of a ca: ob_type and ob_id say of which.")
		}
		if !about {
			return refusal(problem.MissingField, i, "ob_id", "import_ca is of a ca: ob_type and ob_id say of which.")
		}
	case "exec":
		if it.Enabled && it.ObjectType != "cert" && it.Command.empty() {
			return refusal(problem.MissingField, i, "cmd", "which command?")
		}
	case "":
		return refusal(problem.MissingField, i, "type", "copy, exec or import_ca.")
	default:
		return refuse(i, "type", "copy, exec or import_ca.")
	}
	if it.Type != "exec" {
		names := files[it.ObjectType]
		if it.Type == "import_ca" {
			names = imported
		}
		for _, name := range it.From {
			if !slices.Contains(names, name) {
				return refuse(i, "from", "%q is none of %s.", name, strings.Join(names, ", "))
			}
		}
	}
	for _, path := range it.To {
		if path != "" && !absolute(path) {
			return refuse(i, "to", "%q is no absolute path.", path)
		}
	}
	return nil
}

// lintTexts checks sizes and characters.
func (it Item) lintTexts(i int) error {
	for _, m := range []struct {
		name    string
		texts   []string
		most    int
		longest int
	}{
		{"id", []string{it.ID}, 1, maxText},
		{"type", []string{it.Type}, 1, maxText},
		{"depends_on", it.DependsOn, maxItems, maxText},
		{"tags", it.Tags, maxPairs, maxText},
		{"ob_type", []string{it.ObjectType}, 1, maxText},
		{"ob_name", []string{it.ObjectName}, 1, maxText},
		{"from", it.From, maxPairs, maxText},
		{"to", it.To, maxPairs, maxText},
		{"cmd_argv", it.Arguments, maxArguments, maxText},
		{"cmd", it.Command.Argv, maxArguments, maxText},
		{"cmd", []string{it.Command.Line}, 1, maxCommand},
		{"run_as", []string{it.RunAs}, 1, maxText},
	} {
		if len(m.texts) > m.most {
			return refuse(i, m.name, "%d at most.", m.most)
		}
		for _, text := range m.texts {
			if len(text) > m.longest || strings.ContainsRune(text, 0) {
				return refuse(i, m.name, "text of %d bytes at most, without NUL.", m.longest)
			}
		}
	}
	if len(it.Environment) > maxVariables {
		return refuse(i, "env", "%d at most.", maxVariables)
	}
	for name, value := range it.Environment {
		if name == "" || strings.ContainsAny(name, "=\x00") || len(name)+len(value) > maxText || strings.ContainsRune(value, 0) {
			return refuse(i, "env", "names without =, values of %d bytes at most, without NUL.", maxText)
		}
	}
	if len(encode(it.Verify)) > maxCommand {
		return refuse(i, "verify", "%d bytes at most.", maxCommand)
	}
	return nil
}

// absolute tells of a path of POSIX or Windows.
func absolute(path string) bool {
	if strings.HasPrefix(path, "/") || strings.HasPrefix(path, `\\`) {
		return true
	}
	return len(path) >= 3 && path[1] == ':' && (path[2] == '\\' || path[2] == '/') && (path[0]|0x20) >= 'a' && (path[0]|0x20) <= 'z'
}
