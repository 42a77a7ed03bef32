// Package dnsprovider is the catalogue of DNS providers by which DNS-01 challenges (RFC 8555 §8.4) can be met, and
// the settings that a user stores for one.
//
// A kind says which fields it has; its Schema tells a client, Parse holds what a client sends to it. A
// Config is in two parts: what may be shown and the secrets, which are never shown again. They are stored apart:
// the JSON of a Config is the first part, Secrets gives the second, to be encrypted.
//
// No provider's code is here: the function that stores configs must start fast. Package dnssolver uses them.
package dnsprovider

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/problem"
)

// Hidden stands for a secret wherever a config is shown; in an update it means the one that is stored.
const Hidden = "***"

// maxConfig bounds what Parse reads.
const maxConfig = 32 << 10

// Config is what a user has set for one provider. It prints as [redacted].
type Config struct {
	kind    string
	public  map[string]any // string or int, by field
	secrets map[string]string
	sealed  []string // names of secrets that are stored and were not read with the rest
}

// Kind is the name of the kind, never its alias.
func (c Config) Kind() string { return c.kind }

// Text is a string field, secret or not; what was not given is the catalogue's default or empty.
func (c Config) Text(name string) string {
	if s, ok := c.secrets[name]; ok {
		return s
	}
	if s, ok := c.public[name].(string); ok {
		return s
	}
	s, _ := c.byDefault(name).(string)
	return s
}

// Number is an integer field, or the catalogue's default, or 0.
func (c Config) Number(name string) int {
	if n, ok := c.public[name].(int); ok {
		return n
	}
	n, _ := c.byDefault(name).(int)
	return n
}

func (c Config) byDefault(name string) any {
	kind, _ := find(c.kind)
	field, _ := kind.Field(name)
	return field.Default
}

// Format prints a Config, whatever the verb.
func (c Config) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "[redacted]") }

// LogValue is what slog shows of a Config.
func (c Config) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// Redacted is the config as it is shown to its owner: each secret that is set is Hidden.
func (c Config) Redacted() map[string]any {
	shown := map[string]any{}
	maps.Copy(shown, c.public)
	for _, name := range c.secretNames() {
		shown[name] = Hidden
	}
	return shown
}

// secretNames are the fields of the secrets that are set.
func (c Config) secretNames() []string {
	if len(c.secrets) == 0 {
		return c.sealed
	}
	return slices.Sorted(maps.Keys(c.secrets))
}

// SecretValues are the strings that must not appear in a message: the secrets, and the strings inside one that is JSON.
func (c Config) SecretValues() []string {
	var values []string
	for _, s := range c.secrets {
		values = append(values, s)
		var account map[string]any
		if json.Unmarshal([]byte(s), &account) == nil {
			for _, name := range []string{"private_key", "private_key_id"} {
				if inner, ok := account[name].(string); ok {
					values = append(values, inner)
				}
			}
		}
	}
	return values
}

type stored struct {
	Kind    string         `json:"kind"`
	Public  map[string]any `json:"public"`
	Secrets []string       `json:"secrets"` // names of those that are set
}

// MarshalJSON gives the part that is no secret, for storage.
func (c Config) MarshalJSON() ([]byte, error) {
	return json.Marshal(stored{c.kind, c.public, c.secretNames()})
}

// UnmarshalJSON reads it again. The secrets come by WithSecrets.
func (c *Config) UnmarshalJSON(raw []byte) error {
	var s stored
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("read a stored DNS provider: %w", err)
	}
	if _, ok := find(s.Kind); !ok {
		return fmt.Errorf("read a stored DNS provider: there is no kind %q", s.Kind)
	}
	for name, value := range s.Public {
		if n, ok := value.(float64); ok {
			s.Public[name] = int(n)
		}
	}
	*c = Config{kind: s.Kind, public: s.Public, secrets: map[string]string{}, sealed: s.Secrets}
	return nil
}

// Secrets is the other part. It is encrypted before it is stored.
func (c Config) Secrets() []byte {
	raw, _ := json.Marshal(c.secrets) // a map of strings always encodes
	return raw
}

// WithSecrets adds what Secrets gave.
func (c Config) WithSecrets(raw []byte) (Config, error) {
	secrets := map[string]string{}
	if err := json.Unmarshal(raw, &secrets); err != nil {
		// The error's own text may hold a piece of them.
		return Config{}, fmt.Errorf("read the secrets of a stored DNS provider of kind %s: they are no JSON object of strings", c.kind)
	}
	c.secrets = secrets
	return c, nil
}

// Parse checks a new config. Errors are problems that name the field.
func Parse(kind string, raw json.RawMessage, guard egress.Guard) (Config, error) {
	return parse(kind, raw, Config{}, guard)
}

// Merge checks a config that replaces c, as PUT sends it: a secret that is absent or Hidden stays the stored
// one, an empty optional one goes. What is not secret is replaced whole.
//
// Secrets do not stay when the kind changes, nor when they would be sent somewhere else: otherwise
// whoever may edit a provider, and may not read its password, has it sent to a server of their own.
func (c Config) Merge(kind string, raw json.RawMessage, guard egress.Guard) (Config, error) {
	return parse(kind, raw, c, guard)
}

func parse(kindName string, raw json.RawMessage, old Config, guard egress.Guard) (Config, error) {
	kind, ok := find(kindName)
	if !ok {
		return Config{}, problem.InvalidArgument.New("kind must be one of %s.", strings.Join(names(), ", ")).With("field", "kind")
	}
	values, err := object(raw)
	if err != nil {
		return Config{}, err
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if _, known := kind.Field(name); !known {
			return Config{}, invalid(name, "is no field of kind %s. Its fields are %s.", kind.Name, kind.fieldNames())
		}
	}
	c := Config{kind: kind.Name, public: map[string]any{}, secrets: map[string]string{}}
	kept := ""
	for _, f := range kind.Fields {
		value, given := values[f.Name]
		if f.Secret && (!given || string(value) == `"`+Hidden+`"`) {
			if stored, ok := old.secrets[f.Name]; ok && old.kind == c.kind {
				c.secrets[f.Name], kept = stored, f.Name
				continue
			}
			if given {
				return Config{}, invalid(f.Name, "is %s, which stands for a stored secret, and none is stored. Give the secret.", Hidden)
			}
		}
		if !given || string(value) == `""` && !f.Required {
			continue
		}
		if err := c.set(f, value, guard); err != nil {
			return Config{}, err
		}
	}
	for _, f := range kind.Fields {
		if f.Required && !c.has(f.Name) {
			return Config{}, problem.MissingField.New("config.%s is missing: %s", f.Name, f.Description).With("field", "config."+f.Name)
		}
		if f.With != "" && c.has(f.Name) && !c.has(f.With) {
			return Config{}, invalid(f.With, "has to be given with config.%s.", f.Name)
		}
		if f.Destination && kept != "" && c.Text(f.Name) != old.Text(f.Name) {
			return Config{}, invalid(kept, "has to be given anew, because it would be used with another config.%s than before.", f.Name)
		}
	}
	return c, nil
}

func (c Config) has(name string) bool {
	_, public := c.public[name]
	_, secret := c.secrets[name]
	return public || secret
}

// object reads a JSON object's members. Twice the same is refused: two readers could each take another.
func object(raw json.RawMessage) (map[string]json.RawMessage, error) {
	if len(raw) > maxConfig {
		return nil, problem.InvalidArgument.New("config is larger than %d bytes.", maxConfig).With("field", "config")
	}
	wrong := problem.TypeConvert.New("config must be a JSON object.").With("field", "config")
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return nil, wrong
	}
	values := map[string]json.RawMessage{}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, wrong
		}
		var value json.RawMessage
		if decoder.Decode(&value) != nil {
			return nil, wrong
		}
		if _, twice := values[name.(string)]; twice {
			return nil, invalid(name.(string), "is there twice.")
		}
		values[name.(string)] = value
	}
	if _, err := decoder.Token(); err != nil {
		return nil, wrong
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, wrong
	}
	return values, nil
}

// set checks one value and keeps it. No error repeats a secret.
func (c Config) set(f Field, value json.RawMessage, guard egress.Guard) error {
	if f.Type == Integer {
		var n int
		if json.Unmarshal(value, &n) != nil || string(value) == "null" {
			return wrongType(f.Name, "a whole number")
		}
		if n < f.Minimum || n > f.Maximum {
			return invalid(f.Name, "must be %d to %d.", f.Minimum, f.Maximum)
		}
		c.public[f.Name] = n
		return nil
	}
	var s string
	if json.Unmarshal(value, &s) != nil || string(value) == "null" {
		return wrongType(f.Name, "a string")
	}
	if err := f.check(s, guard); err != nil {
		return err
	}
	if f.Secret {
		c.secrets[f.Name] = s
	} else {
		c.public[f.Name] = s
	}
	return nil
}

func (f Field) check(s string, guard egress.Guard) error {
	length := utf8.RuneCountInString(s)
	if shortest := max(1, f.MinLength); length < shortest || length > f.maxLength() {
		return invalid(f.Name, "must have %d to %d characters.", shortest, f.maxLength())
	}
	// A line break would end a header or a log line.
	if f.Format != ServiceAccount && (strings.ContainsFunc(s, unicode.IsControl) || strings.TrimSpace(s) != s || !utf8.ValidString(s)) {
		return invalid(f.Name, "has a line break, another control character or a space at an end. Copy it without.")
	}
	if len(f.Enum) > 0 && !slices.Contains(f.Enum, s) {
		return invalid(f.Name, "must be one of %s.", strings.Join(f.Enum, ", "))
	}
	if f.Pattern != "" && !patterns[f.Pattern].MatchString(s) {
		return invalid(f.Name, "does not have the form of one (%s): %s", f.Pattern, f.Description)
	}
	switch f.Format {
	case URL:
		if err := guard.CheckURL(s); err != nil {
			return invalid(f.Name, "cannot be used: %v", err)
		}
	case HostPort:
		if err := guard.CheckHostPort(s); err != nil {
			return invalid(f.Name, "cannot be used: %v", err)
		}
	case Name:
		if !nameShape.MatchString(s) || len(s) > 254 {
			return invalid(f.Name, "must be a domain name.")
		}
	case Base64:
		if !isBase64(s) {
			return invalid(f.Name, "must be base64 with its padding.")
		}
	case ServiceAccount:
		return checkServiceAccount(f.Name, s)
	}
	return nil
}

// GoogleTokenURL is where a service account gets its tokens.
const GoogleTokenURL = "https://oauth2.googleapis.com/token"

// checkServiceAccount refuses what is not a service account's key: other credential files name URLs and
// commands to fetch a token from. This one's token_uri is not used, and must be Google's all the same.
func checkServiceAccount(name, s string) error {
	var account struct {
		Type        string `json:"type"`
		ProjectID   string `json:"project_id"`
		ClientEmail string `json:"client_email"`
		PrivateKey  string `json:"private_key"`
		TokenURI    string `json:"token_uri"`
	}
	switch err := json.Unmarshal([]byte(s), &account); {
	case err != nil:
		return invalid(name, "must be the JSON file of a service account's key, as a string.")
	case account.Type != "service_account":
		return invalid(name, "must be the key of a service account: its type is not service_account.")
	case account.ClientEmail == "" || account.PrivateKey == "" || account.ProjectID == "":
		return invalid(name, "must have client_email, private_key and project_id.")
	case account.TokenURI != "" && account.TokenURI != GoogleTokenURL && account.TokenURI != "https://accounts.google.com/o/oauth2/token":
		return invalid(name, "has a token_uri that is not Google's.")
	}
	return nil
}

func invalid(field, format string, args ...any) error {
	return problem.InvalidArgument.New("config."+cut(field)+" "+format, args...).With("field", "config."+cut(field))
}

func wrongType(field, want string) error {
	return problem.TypeConvert.New("config.%s must be %s.", field, want).With("field", "config."+field)
}

// cut makes a stranger's name of a field fit to be shown, and no verb of fmt.
func cut(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == '%' || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, name)
	if runes := []rune(name); len(runes) > 40 {
		return string(runes[:40]) + "…"
	}
	return name
}

func find(name string) (Kind, bool) {
	i := slices.IndexFunc(Kinds, func(k Kind) bool { return name != "" && (k.Name == name || k.Alias == name) })
	if i < 0 {
		return Kind{}, false
	}
	return Kinds[i], true
}

func names() []string {
	var list []string
	for _, k := range Kinds {
		list = append(list, k.Name)
	}
	return list
}

func (k Kind) fieldNames() string {
	var list []string
	for _, f := range k.Fields {
		list = append(list, f.Name)
	}
	return strings.Join(list, ", ")
}
