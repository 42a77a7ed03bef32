package session

import "time"

// Pair is an access token with the refresh token that renews it (RFC 6749 §5.1).
type Pair struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in" doc:"Seconds."`
}

// NewPair is the pair of an access token that lives for a while, and of a refresh token.
func NewPair(access, refresh string, lifetime time.Duration) *Pair {
	return &Pair{access, refresh, "Bearer", int(lifetime / time.Second)}
}
