// Package distribution is the wire client of the OCI distribution protocol that image and image/registry share.
//
// It speaks HTTP and nothing else: manifests, blobs, uploads and tag lists of one repository. What the bytes mean, and whether
// they have the digest they should, is for the callers to say; the client only passes on what the registry claimed.
//
//	c := distribution.New(&distribution.Config{UserAgent: "hpcimg"})
//	repo, err := c.Repository("registry.example.org", "tools/gcc", distribution.Pull)
//	doc, err := repo.Manifest(ctx, "13.2", accept, 4<<20)
//	rc, err := repo.Blob(ctx, digest, size)
//
// # Layers of the transport
//
// A request passes, from the top: authentication (basic, bearer and OAuth2 tokens), retries, a guard, a watchdog, and the caller's or
// our own http.RoundTripper. Each is a http.RoundTripper of its own, and the first ping and token requests enter below the
// authentication, so they get retries and time-outs like any other.
//
// # Retries
//
// Answers 408, 425, 429 and 5xx, and connections that break before an answer, are tried again while the waits stay within
// Config.RetryBudget and the attempts within Config.Attempts. Retry-After is honoured; when it asks for more than is left of the
// budget the answer is returned at once with the wait in [Error.RetryAfter]. A request whose body cannot be read again is sent
// once.
//
// # Resuming
//
// The body of a blob that breaks, stalls or ends early is continued with a request for the rest (Range, with If-Range where the
// registry gave a strong validator), and the answer is believed only if its Content-Range fits to the byte. A registry that ignores
// ranges sends the blob again from its beginning, which is read over. Budget and attempts start anew with each mebibyte that
// arrives. 403 and 404 in the middle of a blob are tried again, as signed URLs expire and replicas differ; answers that make
// no sense three times. Documents are short and are asked for again as a whole.
//
// With Config.Ranges a large blob is asked for in several ranges at a time, until one of them does not come; the rest is then one stream.
//
// # Uploads
//
// A blob goes in one request, or in chunks where the caller, a proxy's 413 or a break says so. After a break the registry is asked how
// far it is; one that does not say gets a new upload.
//
// # Mirrors
//
// A [Mirrored] repository is read from several places, in order, those last that have failed a moment ago. A place that is not the last one
// gets two attempts. Each place has its own session: neither credentials nor tokens of one are seen by another.
//
// # Stalls
//
// A peer that sends or takes no byte for Config.IdleTimeout while we wait for it ends the request with [ErrStalled], and so does one
// that sends fewer bytes than Config.MinRate over four times that. Time that a slow consumer of the body needs does not count. After
// an upload the registry gets more time, by its size.
//
// # Untrusted input
//
// Credentials go to the registry's own scheme, host and port, and to the token server that it names over the same or a better
// scheme, never along with a redirect, nor does the URL that redirected. A challenge of another host is answered without credentials.
// Plain HTTP is spoken with loopback hosts, and with others only if Config.PlainHTTP says so and HTTPS has failed, for
// another reason than a certificate. A redirect may not lead from HTTPS to HTTP, nor from another host to a loopback or link-local
// address. Bodies of errors, tokens and tag lists are bounded here, manifests by the caller's limit, blobs by their readers.
// Transparent decompression is off.
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
