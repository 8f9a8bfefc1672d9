// Package distribution is the wire client of the OCI distribution protocol that image and image/registry share.
//
// It speaks HTTP and nothing else: manifests, blobs, uploads and tag lists of one repository. What the bytes mean, and whether
// they have the digest they should, is for the callers to say; the client only passes on what the registry claimed.
//
//	c := distribution.New(&distribution.Config{UserAgent: "hpcimg"})
//	repo, err := c.Repository("registry.example.org", "tools/gcc", distribution.Pull)
//	doc, err := repo.Manifest(ctx, "13.2", accept)
//
// # Layers of the transport
//
// A request passes, from the top: authentication (go-containerregistry's transport: basic, bearer and OAuth2 tokens), retries,
// a guard, a watchdog, and the caller's or our own http.RoundTripper. Each is a http.RoundTripper of its own, so token requests
// and the first ping get retries and time-outs like any other.
//
// # Retries
//
// Answers 408, 429 and 5xx, and connections that break before an answer, are tried again while the waits stay within
// Config.RetryBudget. Retry-After is honoured; when it asks for more than is left of the budget the answer is returned at once
// with the wait in [Error.RetryAfter]. Requests whose body cannot be read again are sent once. A body that breaks halfway is
// the caller's to resume.
//
// # Stalls
//
// A peer that sends or takes no byte for Config.IdleTimeout while we wait for it ends the request with [ErrStalled]. Time that
// a slow consumer of the body needs does not count.
//
// # Untrusted input
//
// Credentials go to the registry's own host and to the token server that it names over the same or a better scheme, never
// along with a redirect. Plain HTTP is spoken with loopback hosts, and with others only if Config.PlainHTTP says so; a
// redirect may not lead from HTTPS to HTTP, nor from another host to a loopback address. Bodies of errors, tokens and tag lists
// are bounded here; manifests and blobs by their readers. Transparent decompression is off.
//
// # Errors
//
// All requests and bodies fail with *[Error], which says whom we asked for what; the packages above turn it into their own types.
// Texts of registries are quoted, shortened and without URLs, which may be signed.
//
// # Concurrency
//
// A [Client] and its repositories may be used by many goroutines. Tokens are shared by the repositories of a client that have
// the same name and rights.
package distribution
