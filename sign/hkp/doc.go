// Package hkp gets OpenPGP keys from key servers, searches them, and sends keys to them, by the HTTP Keyserver Protocol.
//
//	c, err := hkp.New("hkps://keys.openpgp.org", nil)
//	...
//	key, err := c.Get(ctx, fingerprint)
//
// A key server is nobody to trust: anybody may put a key with any name there, and the server may answer what it likes. So a key is asked for by
// its full fingerprint, and what comes back counts only if it has that. [Client.Search] is for people: what it returns are claims. Nothing in package sign asks a
// key server by itself.
//
// Answers are limited to 4 MiB and 1000 keys, requests to a time, redirects to three, which never lead from https to http. A token is sent
// over TLS or to this machine only.
package hkp
