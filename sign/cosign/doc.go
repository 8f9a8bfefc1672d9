// Package cosign makes and checks signatures of images in registries, in the formats of cosign, with keys: no certificates of Sigstore's
// public service, and no transparency log.
//
//	client := registry.NewClient(nil)
//	err := cosign.Sign(ctx, client, "docker://registry.site.example/apps/x:1", key, nil)
//	...
//	result, err := cosign.Verify(ctx, client, "docker://registry.site.example/apps/x@sha256:…", keys)
//
// What is signed is the digest of a manifest or index, and with it everything that it refers to: images in layers, SIF files and
// squashfs images that were pushed as artifacts, segments. A signature inside a SIF file is another matter; sign inside first, then push, then
// sign what was pushed.
//
// # Formats
//
// [FormatTag] is that of cosign until version 2: a payload that names the digest ("simple signing"), in a layer of an image under the
// tag sha256-HEX.sig; its signature is an annotation. [FormatBundle] is that of cosign 3: a Sigstore bundle of version 0.3 with a DSSE envelope around
// an in-toto statement, in a manifest whose subject is what was signed, found by way of the index under the tag sha256-HEX. Verify
// looks for both.
//
// # Untrusted input
//
// A registry may serve anything. At most 50 signatures of at most 1 MiB each are looked at, each blob against its digest. A signature counts if a
// key that the caller trusts made it, and what it says is of the kind that says "this is that digest", about the digest asked for. Others
// are reported and ignored: a registry, or anybody who may push there, can take signatures away and add foreign ones anyway.
package cosign
