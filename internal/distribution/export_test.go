package distribution

import "net/http"

// PickChallenge is pickChallenge with what it returns.
func PickChallenge(value string) (scheme string, parameters map[string]string) {
	c := pickChallenge(http.Header{"Www-Authenticate": {value}})
	return c.scheme, c.parameters
}

var ParseContentRange = parseContentRange

var Uploaded = uploaded
