package distribution

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// challenge is what a WWW-Authenticate header asks for.
type challenge struct {
	scheme     string // in lower case: "basic", "bearer"; empty for none that we know
	parameters map[string]string
}

const maxChallenge = 16 << 10

// pickChallenge returns the first challenge that we can answer. Registries in companies offer Negotiate beside it.
func pickChallenge(h http.Header) challenge {
	for _, value := range h.Values("WWW-Authenticate") {
		if len(value) > maxChallenge {
			continue
		}
		for value != "" {
			var c challenge
			if c, value = nextChallenge(value); c.scheme == "basic" || c.scheme == "bearer" {
				return c
			}
		}
	}
	return challenge{}
}

// nextChallenge takes a challenge off the front of a header: RFC 9110, section 11.6.1. Scheme and parameters are told apart by what
// follows them: a name with = is a parameter of the last scheme.
func nextChallenge(s string) (challenge, string) {
	c := challenge{parameters: map[string]string{}}
	s = strings.TrimLeft(s, " \t,")
	c.scheme, s = cutToken(s)
	c.scheme = strings.ToLower(c.scheme)
	if c.scheme == "" {
		return challenge{}, ""
	}
	for {
		rest := strings.TrimLeft(s, " \t,")
		key, after := cutToken(rest)
		after = strings.TrimLeft(after, " \t")
		if key == "" || !strings.HasPrefix(after, "=") {
			return c, skipJunk(rest, key)
		}
		var value string
		value, s = cutValue(strings.TrimLeft(after[1:], " \t"))
		if _, twice := c.parameters[strings.ToLower(key)]; !twice {
			c.parameters[strings.ToLower(key)] = value
		}
	}
}

// skipJunk makes sure that a header which is no list of challenges comes to its end.
func skipJunk(rest, key string) string {
	if key != "" {
		return rest
	}
	_, rest, _ = strings.Cut(rest, ",")
	return rest
}

func cutToken(s string) (token, rest string) {
	i := strings.IndexFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r)
	})
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i:]
}

func cutValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		i := strings.IndexAny(s, " \t,")
		if i < 0 {
			return s, ""
		}
		return s[:i], s[i:]
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}

func basic(c Credential) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password))
}

// token is what a token server gives.
type token struct {
	value   string
	refresh string // what to ask for the next one with; as before if the server says nothing
}

const maxToken = 64 << 10

// fetchToken asks the token server that the challenge names. It gets the credentials, as it is part of the registry, and sits
// behind the same guard.
func (s *session) fetchToken(ctx context.Context, st *state) (token, error) {
	realm, err := realmURL(st.challenge.parameters["realm"], st.scheme)
	if err != nil {
		return token{}, err
	}
	refresh := st.refresh
	if refresh == "" {
		refresh = st.credential.IdentityToken
	}
	if refresh != "" {
		t, err := s.exchange(ctx, realm, st, refresh)
		if e, ok := errors.AsType[*Error](err); !ok || (e.Status != http.StatusNotFound && e.Status != http.StatusMethodNotAllowed) {
			return t, err
		}
		// A token server without OAuth2.
	}
	u := *realm
	query := u.Query()
	query["scope"] = st.scopes
	if service := st.challenge.parameters["service"]; service != "" {
		query.Set("service", service)
	}
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return token{}, err
	}
	header := ""
	if st.credential.Username != "" || st.credential.Password != "" {
		header = basic(st.credential)
	}
	return s.askToken(req, header)
}

// exchange trades a refresh token for an access token.
func (s *session) exchange(ctx context.Context, realm *url.URL, st *state, refresh string) (token, error) {
	form := url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {refresh},
		"service":       {st.challenge.parameters["service"]},
		"scope":         {strings.Join(st.scopes, " ")},
		"client_id":     {"hpcimg"},
		"access_type":   {"offline"},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return token{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	t, err := s.askToken(req, "")
	if t.refresh == "" {
		t.refresh = refresh
	}
	return t, err
}

func (s *session) askToken(req *http.Request, header string) (token, error) {
	origin := req.URL
	client := &http.Client{
		Transport: originAuth{next: s.base, origin: origin, header: header},
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			// With a password or a refresh token nobody is sent elsewhere; a 307 would take the form along.
			if (header != "" || req.Method == http.MethodPost) && !sameOrigin(next.URL, origin) {
				return fmt.Errorf("refused to follow the token server to %s with credentials", Printable(next.URL.Host, 100))
			}
			return checkRedirect(next, via)
		},
	}
	res, err := client.Do(req)
	if err != nil {
		return token{}, fmt.Errorf("token server %s: %w", origin.Host, trimURL(err))
	}
	defer discard(res.Body)
	if res.StatusCode != http.StatusOK {
		e := answerError(res)
		e.Err = fmt.Errorf("token server %s: %w", origin.Host, e.Err)
		return token{}, e
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxToken+1))
	if err != nil {
		return token{}, fmt.Errorf("token server %s: %w", origin.Host, err)
	}
	var answer struct {
		Token        string `json:"token"`
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
	}
	// The answer is a secret, or was meant to be one: nothing of it goes into an error.
	if len(raw) > maxToken || json.Unmarshal(raw, &answer) != nil {
		return token{}, fmt.Errorf("token server %s: its answer is no token in JSON", origin.Host)
	}
	t := token{value: answer.AccessToken, refresh: answer.RefreshToken}
	if t.value == "" {
		t.value = answer.Token
	}
	if t.value == "" || strings.ContainsFunc(t.value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return token{}, fmt.Errorf("token server %s: its answer has no usable token", origin.Host)
	}
	return t, nil
}

// originAuth adds a header to requests to one place.
type originAuth struct {
	next   http.RoundTripper
	origin *url.URL
	header string
}

func (o originAuth) RoundTrip(req *http.Request) (*http.Response, error) {
	defer closeOriginal(req)
	again, err := rewind(req)
	if err != nil {
		return nil, err
	}
	again.Header.Del("Authorization")
	if o.header != "" && sameOrigin(req.URL, o.origin) {
		again.Header.Set("Authorization", o.header)
	}
	return o.next.RoundTrip(again)
}

// realmURL is where tokens come from: over HTTPS, or over HTTP if the registry itself is talked to like that.
func realmURL(realm, scheme string) (*url.URL, error) {
	u, err := url.Parse(realm)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, fmt.Errorf("the registry names no usable token server: %q", Printable(realm, 200))
	}
	if u.Scheme == "http" && scheme != "http" {
		return nil, fmt.Errorf("refused to send credentials to the token server %q without TLS", Printable(realm, 200))
	}
	u.User, u.Fragment = nil, ""
	return u, nil
}
