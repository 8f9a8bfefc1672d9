// Package sign makes and checks the signatures inside SIF files, and keeps the OpenPGP keys for them.
//
// A signature is a data object that holds digests of other objects and of their descriptors, signed. It covers an object group, as a
// rule all of an image.
//
//	key, err := sign.GenerateKey(&sign.KeyOptions{Name: "Site Images", Email: "images@site.example"})
//	...
//	err = sign.Sign(ctx, "image.sif", key, nil)
//	...
//	f, err := sif.Open("image.sif")
//	...
//	result, err := sign.Verify(ctx, f, &sign.VerifyOptions{Keyring: sign.NewKeyring(key.Public())})
//
// [Verify] succeeds only if every object is covered by a valid signature of a key that the caller trusts. The keyring is the trust: there
// is no key server, and nothing that is found by a short key ID. VerifyOptions.Signers narrows it to full fingerprints.
//
// # What a signature covers
//
// The launch script and ID of the file; of each object its bytes, type, size, name, link, time of creation and the fields of its type
// (file system, role and architecture of a partition); its position among the IDs of its group. It does not cover the offset of
// an object, group numbers, times of modification, the architecture in the header, or other signatures. docs/adr/0006 has the
// table. So run what [Result] lists as covered, through the same open file that was verified, and take nothing from the header.
//
// # Formats
//
// OpenPGP clear-signed messages ([Sign]) and DSSE envelopes ([SignDSSE]) are made and checked, the latter with ECDSA, Ed25519 and RSA keys, against
// VerifyOptions.PublicKeys and Certificates. What is made is byte for byte what sylabs/sif would make. The format from before
// Singularity 3.6, which covers the bytes of objects and nothing else, is accepted only with VerifyOptions.Legacy.
//
// # Keys
//
// A [Key] signs if it is of version 4 with RSA of 3072 bits or more, or EdDSA (algorithm 22). Others are refused with a [*KeyError]: a
// version 6 key would make signatures that nobody can verify, because the format has room for 20 bytes of fingerprint, and GnuPG
// before 2.4 cannot read algorithm 27. Any key that the OpenPGP library can use verifies.
//
// A [KeyDir] is a directory as Apptainer has it in ~/.apptainer/keys: binary key rings pgp-public and pgp-secret. It is locked and its files are
// replaced as a whole, which Apptainer does not do; reading is the same.
//
// # Untrusted input
//
// The file has passed the checks of package sif. Signatures are limited in number (50) and size (1 MiB), and each object is read once per
// digest algorithm, however many signatures there are. A signature by an unknown key is reported and otherwise ignored, so that
// nobody can spoil an image by adding one; a signature by a trusted key that does not hold fails the file.
//
// # Errors
//
// [ErrUnsigned]: there is no signature. [ErrUntrusted]: there are some, but none by a trusted key. [*VerifyError]: something does not hold, or an
// object is not covered. Verify returns a Result with all of them.
//
// # Crash safety
//
// [Sign] works on a copy that replaces the file in one step.
package sign
