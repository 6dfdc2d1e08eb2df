// Package placet verifies decisions of Placet's, with github.com/golang-jwt/jwt/v5 and
// github.com/MicahParks/keyfunc/v3.
//
// NOT RUN: no test of Placet's compiles or runs this.
package placet

import (
	"context"
	"errors"
	"net/http"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

// Header carries the decision.
const Header = "X-Placet-Decision"

// Claims of a decision that are compared.
type Claims struct {
	jwt.RegisteredClaims
	ClientID string `json:"client_id"`
	Method   string `json:"htm"`
	URL      string `json:"htu"`
}

// Verifier is for one application: make it once, and keep it. Its keys are fetched beside it.
type Verifier struct {
	keys     keyfunc.Keyfunc
	parser   *jwt.Parser
	clientID string
}

// New returns a verifier of the scope clientID, whose key set is at jwksURI.
func New(ctx context.Context, jwksURI, audience, clientID, issuer string) (*Verifier, error) {
	keys, err := keyfunc.NewDefaultCtx(ctx, []string{jwksURI})
	if err != nil {
		return nil, err
	}
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{"ES256", "ES384", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
		jwt.WithAudience(audience),
		jwt.WithIssuer(issuer),
		jwt.WithExpirationRequired(),
	)
	return &Verifier{keys: keys, parser: parser, clientID: clientID}, nil
}

// Verify returns the claims of the decision for this request; origin is the scheme and host that
// clients use, such as "https://orders.example.com".
func (v *Verifier) Verify(r *http.Request, origin string) (*Claims, error) {
	tokens := r.Header.Values(Header)
	if len(tokens) != 1 {
		return nil, errors.New("not exactly one decision")
	}
	claims := &Claims{}
	if _, err := v.parser.ParseWithClaims(tokens[0], claims, v.keys.Keyfunc); err != nil {
		return nil, err
	}
	// No query: the decision is about method, scheme, host and path.
	if claims.ClientID != v.clientID || claims.Method != r.Method || claims.URL != origin+r.URL.EscapedPath() {
		return nil, errors.New("the decision is for another request")
	}
	return claims, nil
}
