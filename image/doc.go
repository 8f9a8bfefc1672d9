// Package image reads container images: references, manifests, configs and layers, from registries, OCI image layouts and
// archives.
//
//	img, err := image.Open(ctx, "docker://docker.io/library/python:3.12", nil)
//	if err != nil {
//		return err
//	}
//	for _, layer := range img.Layers() {
//		rc, err := layer.Open(ctx)
//		// a verified stream of the blob as stored
//	}
//
// [Open] reads the manifest and the config and nothing else, so it serves to inspect an image before it is pulled. An [Image] is
// complete and valid once it is there: none of its accessors fail. [New] does the same with a [Source] of the caller's, [Build]
// makes images in memory, [WriteLayout] stores them. Package image/registry pushes them.
//
// # References
//
//	docker://HOST/REPOSITORY[:TAG|@DIGEST]   image in a registry; docker.io and latest are the defaults
//	oci:DIR[:TAG|@DIGEST]                    OCI image layout
//	oci-archive:FILE[:TAG|@DIGEST]           the same in a tar file, which is not unpacked
//	docker-archive:FILE[:REF]                what docker save and podman save write
//	docker-daemon:REF                        what Docker or Podman has, see [DaemonOptions]
//
// A manifest that is not that of an image, such as one of a SIF file behind oras://, is an [Artifact]. The other transports of [Transport] are parsed, so that programs have one kind of reference for everything; [Open] answers them
// with errors.ErrUnsupported and the name of the package that reads them.
//
// # Without a network
//
// With a cache in [Options].Cache and Documents, blobs and manifests that have been read before are not fetched again, and an image in
// the cache is opened by its digest even if the registry does not answer. With [Options].Offline no registry is asked; a tag
// leads where it did last, and [Image.Remembered] says when that was. What is missing is an [OfflineError].
//
// # Platforms
//
// From an index, the best image for [Options].Platform is chosen: the same variant, else the newest older one. Indexes may
// be nested four deep. An image for another platform is never taken silently, also if it is the only one: [PlatformError] lists what
// there is.
//
// # Untrusted input
//
// Every document is bounded by [Limits] before it is read, and walked over before anything is built from it: duplicate keys, keys
// that differ from a field only in letter case, deep nesting and too many members are refused, and so is a document that is a
// manifest and an index at once. Descriptors are validated before they size a buffer or become part of a path or URL: only
// sha256 and sha512, no negative sizes. Announced and actual media types have to agree. What a descriptor embeds has to
// match its digest; URLs in descriptors are never fetched.
//
// Blobs are verified while they are read (see [Layer.Open]): never a byte more than the descriptor says, and io.EOF only if
// size and digest are right. That a layer decompresses to its diffID is for whoever decompresses it to check.
//
// Docker's manifest version 2, schema 1 is refused, since it has no diffIDs. Artifacts that are no images are refused with the name
// of what they are.
//
// # Errors
//
// What is wrong with a document is a *[DocumentError] that names the field; content that is not what it should be a
// *[DigestError]; missing things are fs.ErrNotExist; valid things that are no images are errors.ErrUnsupported.
// [Open] lists them all.
//
// # Privileges and environment
//
// None needed, none read: credentials and proxies come from [RegistryOptions], and plain HTTP is spoken only with loopback
// addresses unless it is allowed.
//
// # Concurrency
//
// Images and layers may be used by many goroutines; an Image holds nothing open, but for a temporary file without a name where it
// comes from a stream or a daemon, which is gone with the Image.
//
// # Compatibility
//
// OCI image specification 1.1 and Docker image manifest version 2, schema 2. Layouts and archives of umoci and skopeo, and
// Docker's registry program, are part of the tests. Specification: https://github.com/opencontainers/image-spec.
package image
