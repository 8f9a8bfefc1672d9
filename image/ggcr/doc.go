// Package ggcr makes images of this module those of go-containerregistry, and the other way round, for programs that use both: its
// tarballs, mutations and transports on one side, conversion to SIF and squashfs on the other.
//
//	v, err := ggcr.ToImage(ctx, img)     // *image.Image → v1.Image
//	img, err := ggcr.FromImage(ctx, v, nil) // v1.Image → *image.Image
//	img, err := ggcr.FromIndex(ctx, x, nil) // the image for this platform from a v1.ImageIndex
//
// Manifests and configs go across as they are stored, so that digests stay the same. Layers are opened when somebody reads them, and not
// before.
//
// # Untrusted input
//
// Whatever comes across is verified on this side: manifests and configs as image.Open does it, blobs against their descriptors while they
// are read. That holds for layers that go-containerregistry reads from an image of ours, too: compressed against the descriptor, uncompressed
// against the diffID. The end of the stream reports a difference, as an *image.DigestError.
//
// # Contexts
//
// go-containerregistry's layers are opened without a context. Those of [ToImage] use the one that it was given, which should therefore live
// for as long as they do.
//
// # Concurrency
//
// All that is returned may be used by many goroutines, as far as what it was made of may.
package ggcr
