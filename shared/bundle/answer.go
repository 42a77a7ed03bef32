package bundle

import (
	"fmt"
	"strconv"
	"time"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/installconfig"
	"cjj365.cc/bb/shared/wire"
)

// ConfigResponse is the answer with an install config, to the device and to its owner.
type ConfigResponse struct {
	ETag string `header:"ETag" doc:"The version."`
	Body wire.Data[Config]
}

// AnswerConfig answers with an install config. The ETag is its version.
func AnswerConfig(c installconfig.Config) *ConfigResponse {
	return &ConfigResponse{`"` + strconv.FormatInt(c.Version, 10) + `"`, wire.Data[Config]{Data: OfConfig(c)}}
}

// Packed is how a bundle is asked for.
type Packed struct {
	Pack string `query:"pack" enum:"download,inline" doc:"download has the answer saved as a file."`
}

// attachment is the Content-Disposition of a bundle under the name; empty unless it is to be saved as a file.
func (p Packed) attachment(name string) string {
	if p.Pack != "download" {
		return ""
	}
	return fmt.Sprintf(`attachment; filename="%s.json"`, name)
}

// MaterialResponse is the answer with a certificate's material, to the device and to its owner.
type MaterialResponse struct {
	Disposition string `header:"Content-Disposition"`
	Body        wire.Data[Material]
}

// AnswerMaterial answers with the material of the certificate with the id, and says in its name that the key is plain.
func AnswerMaterial(p Packed, id int64, m Material, plain bool) *MaterialResponse {
	name := "bundle"
	if plain {
		name = "plaintext"
	}
	return &MaterialResponse{p.attachment(fmt.Sprintf("cert_%d_%s", id, name)), wire.Data[Material]{Data: m}}
}

// CAResponse is the answer with a CA that a device is to trust, to the device and to its owner.
type CAResponse struct {
	Disposition string `header:"Content-Disposition"`
	Body        wire.Data[TrustedCA]
}

// AnswerCA answers with a CA as it is at now.
func AnswerCA(p Packed, c ca.CA, now time.Time) *CAResponse {
	return &CAResponse{p.attachment(fmt.Sprintf("ca_%d_bundle", c.ID)), wire.Data[TrustedCA]{Data: OfCA(c, now)}}
}
