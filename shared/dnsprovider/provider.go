package dnsprovider

import (
	"time"

	"cjj365.cc/bb/shared/sealed"
)

// Provider is a DNS provider as a user has stored it. Config lacks its secrets until they are opened.
type Provider struct {
	User, ID     int64
	Name         string
	Config       Config
	Secrets      sealed.Secret
	Certificates int64 // that use it
	CreatedAt    time.Time
	UpdatedAt    time.Time
}
