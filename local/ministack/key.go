package ministack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cjj365.cc/bb/local/template"
)

const (
	keysName = "keys.json"
	idLength = 36 // of a key's id, a UUID
)

// KeyID is the key that a ciphertext is under: MiniStack begins one with the key's id.
func KeyID(ciphertext []byte) string {
	if len(ciphertext) < idLength {
		return ""
	}
	return string(ciphertext[:idLength])
}

// CreateKeys makes the keys that are not there yet and yields the ids of all, by logical id. When it
// returns, they are kept.
func (s *Server) CreateKeys(ctx context.Context, keys []template.Key) (map[string]string, error) {
	ids, err := s.knownKeys()
	if err != nil {
		return nil, err
	}
	created := false
	for _, k := range keys {
		if ids[k.LogicalID] != "" {
			continue
		}
		made, err := s.kms.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: types.KeySpec(k.Spec), KeyUsage: types.KeyUsageType(k.Usage)})
		if err != nil {
			return nil, fmt.Errorf("create key %s: %w", k.LogicalID, err)
		}
		ids[k.LogicalID], created = aws.ToString(made.KeyMetadata.KeyId), true
	}
	if created && s.options.Dir != "" {
		if err := s.restart(ctx); err != nil {
			return nil, fmt.Errorf("keep the new keys: %w", err)
		}
	}
	for _, k := range keys {
		if err := s.checkKey(ctx, k, ids[k.LogicalID]); err != nil {
			return nil, err
		}
	}
	if created && s.options.Dir != "" {
		return ids, s.writeKeys(ids)
	}
	return ids, nil
}

// checkKey refuses to go on without a key that something may be encrypted under.
func (s *Server) checkKey(ctx context.Context, k template.Key, id string) error {
	found, err := s.kms.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &id})
	var missing *types.NotFoundException
	if errors.As(err, &missing) {
		return fmt.Errorf("key %s (%s) is lost, and what is encrypted under it; make reset forgets both", k.LogicalID, id)
	}
	if err != nil {
		return fmt.Errorf("find key %s: %w", k.LogicalID, err)
	}
	if is := found.KeyMetadata; string(is.KeySpec) != k.Spec || string(is.KeyUsage) != k.Usage {
		return fmt.Errorf("key %s is there as %s for %s; make reset removes it and what is encrypted under it", k.LogicalID, is.KeySpec, is.KeyUsage)
	}
	return nil
}

// CreateAliases names keys, anew at each start.
func (s *Server) CreateAliases(ctx context.Context, aliases []template.Alias) error {
	for _, a := range aliases {
		_, err := s.kms.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &a.Name, TargetKeyId: &a.KeyID})
		var exists *types.AlreadyExistsException
		if errors.As(err, &exists) {
			_, err = s.kms.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: &a.Name, TargetKeyId: &a.KeyID})
		}
		if err != nil {
			return fmt.Errorf("create %s: %w", a.Name, err)
		}
	}
	return nil
}

func (s *Server) knownKeys() (map[string]string, error) {
	ids := map[string]string{}
	if s.options.Dir == "" {
		return ids, nil
	}
	data, err := os.ReadFile(filepath.Join(s.options.Dir, keysName))
	if errors.Is(err, fs.ErrNotExist) {
		return ids, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &ids)
	}
	if err != nil {
		return nil, fmt.Errorf("read the ids of the keys: %w", err)
	}
	return ids, nil
}

// writeKeys comes last: until then, keys that a killed start made are no loss.
func (s *Server) writeKeys(ids map[string]string) error {
	data, err := json.Marshal(ids)
	if err != nil {
		return fmt.Errorf("write the ids of the keys: %w", err)
	}
	path := filepath.Join(s.options.Dir, keysName)
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the ids of the keys: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write the ids of the keys: %w", err)
	}
	return nil
}
