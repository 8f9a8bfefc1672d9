package sign

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"hpcimg/sif"
)

const (
	maxSignatures    = 50
	maxSignatureSize = 1 << 20
	readSize         = 1 << 20
)

// VerifyOptions say whom to trust. With neither Keyring nor PublicKeys nobody is.
type VerifyOptions struct {
	// Keyring holds the trusted OpenPGP keys.
	Keyring *Keyring
	// Signers narrows Keyring to these fingerprints; empty: all of its keys are trusted.
	Signers []Fingerprint
	// PublicKeys are trusted for DSSE signatures: ed25519.PublicKey, *ecdsa.PublicKey or *rsa.PublicKey.
	PublicKeys []crypto.PublicKey
	// Legacy accepts signatures in the format before Singularity 3.6, which cover nothing but the bytes of objects.
	Legacy bool
	// AllowUncovered accepts a file of which only the primary partition is covered. Without it every object must be.
	AllowUncovered bool
	// Time is compared with the lifetime of keys and signatures; zero means now.
	Time time.Time
}

// Format is the format of a signature.
type Format string

// The formats of signatures.
const (
	FormatPGP    Format = "pgp"
	FormatLegacy Format = "pgp-legacy"
	FormatDSSE   Format = "dsse"
)

// Result is what Verify found.
type Result struct {
	Signatures []Signature
	Objects    []Object // all data objects except for signatures
}

// Signature is the verdict on one signature.
type Signature struct {
	ObjectID uint32
	Format   Format // "" when not recognised
	// GroupID is the group it is linked to; LinkedID the object, if it is a legacy signature of one.
	GroupID, LinkedID uint32
	// Claimed is the fingerprint that the descriptor names. Anybody can write one there.
	Claimed Fingerprint
	// Trusted is set when a trusted key made the signature, whether or not what it says of the file holds.
	Trusted bool
	// Signer is the OpenPGP key that made it, and PublicKeys are the keys that made a DSSE one, if Trusted.
	Signer     *Key
	PublicKeys []crypto.PublicKey
	// Covers lists the objects that it vouches for. It is empty unless everything in it holds.
	Covers []uint32
	// Err is nil if everything in it holds. It is ErrUntrusted for a signature by an unknown key.
	Err error
}

// Object is the verdict on one data object.
type Object struct {
	sif.Object
	// Signatures lists the valid signatures by trusted keys that cover it.
	Signatures []uint32
}

// Covered reports whether a valid signature by a trusted key covers the object.
func (o Object) Covered() bool { return len(o.Signatures) > 0 }

// VerifyPath is Verify for a file that is opened for it. To run what was verified, open it yourself and use the same open file for both.
func VerifyPath(ctx context.Context, path string, opts *VerifyOptions) (*Result, error) {
	f, err := sif.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Verify(ctx, f, opts)
}

// Verify checks the signatures of f. The error is nil only if there is a signature by a trusted key, every such signature holds, and
// every object is covered by one (or, with AllowUncovered, the primary partition is). The Result is there with or without
// an error, unless a limit is exceeded, reading fails or ctx ends.
func Verify(ctx context.Context, f *sif.File, opts *VerifyOptions) (*Result, error) {
	v := &verifier{f: f, sums: make(map[sumKey][]byte)}
	if opts != nil {
		v.opts = *opts
	}
	entities, err := v.opts.Keyring.entities(func(fp Fingerprint) bool {
		return len(v.opts.Signers) == 0 || slices.Contains(v.opts.Signers, fp)
	})
	if err != nil {
		return nil, err
	}
	v.entities = entities
	result, err := v.collect()
	if err != nil {
		return nil, err
	}
	for i := range result.Signatures {
		if err := v.verify(ctx, &result.Signatures[i]); err != nil {
			return nil, err
		}
	}
	result.assign()
	return result, result.judge(&v.opts)
}

type verifier struct {
	f        *sif.File
	opts     VerifyOptions
	entities openpgp.EntityList
	sums     map[sumKey][]byte
}

type sumKey struct {
	id   uint32
	hash crypto.Hash
}

// collect lists objects and signatures within the limits.
func (v *verifier) collect() (*Result, error) {
	r := new(Result)
	for _, o := range v.f.Objects() {
		if o.Type != sif.DataSignature {
			r.Objects = append(r.Objects, Object{Object: o})
			continue
		}
		if o.Size > maxSignatureSize {
			return nil, &LimitError{What: "size of a signature", Limit: maxSignatureSize}
		}
		s := Signature{ObjectID: o.ID, Claimed: fingerprintOf(o.Fingerprint())}
		if o.LinkedGroup {
			s.GroupID = o.LinkedID
		} else {
			s.LinkedID = o.LinkedID
		}
		r.Signatures = append(r.Signatures, s)
	}
	if len(r.Signatures) > maxSignatures {
		return nil, &LimitError{What: "number of signatures", Limit: maxSignatures}
	}
	return r, nil
}

// verify judges one signature. It returns an error only if it could not.
func (v *verifier) verify(ctx context.Context, s *Signature) error {
	o, err := v.f.Object(s.ObjectID)
	if err != nil {
		return err
	}
	data := make([]byte, o.Size)
	if _, err := io.ReadFull(o.Open(), data); err != nil && o.Size > 0 {
		return fmt.Errorf("sign: object %d: %w", s.ObjectID, err)
	}
	text, err := v.authenticate(s, o, data)
	if err != nil {
		s.Err = err
		return nil
	}
	if s.Format == FormatLegacy {
		s.Err = v.checkLegacy(ctx, s, text, o.SignatureHash())
	} else {
		s.Err = v.checkMessage(ctx, s, text)
	}
	if e := (*readFailure)(nil); errors.As(s.Err, &e) {
		return e.err
	}
	if s.Err != nil {
		s.Covers = nil
	}
	return nil
}

// readFailure sets apart "cannot tell" from "does not hold".
type readFailure struct{ err error }

func (e *readFailure) Error() string { return e.err.Error() }

func (v *verifier) checkMessage(ctx context.Context, s *Signature, text []byte) error {
	switch o, err := v.f.Object(s.ObjectID); {
	case err != nil:
		return err
	case s.GroupID == 0:
		return &VerifyError{ObjectID: s.ObjectID, Err: errors.New("signature is not linked to a group")}
	case o.GroupID != 0:
		// No tool makes such a one, and others would look for the signature of that group in turn.
		return &VerifyError{ObjectID: s.ObjectID, GroupID: s.GroupID, Err: fmt.Errorf("signature is in group %d", o.GroupID)}
	}
	m, err := parseMessage(text)
	if err != nil {
		return &VerifyError{ObjectID: s.ObjectID, GroupID: s.GroupID, Err: err}
	}
	if !m.Header.Digest.matches(v.f.SignedHeader()) {
		return &VerifyError{GroupID: s.GroupID, Err: errors.New("global header was changed")}
	}
	objects := v.group(s.GroupID)
	if len(objects) == 0 {
		return &VerifyError{GroupID: s.GroupID, Err: errors.New("signed group is gone")}
	}
	first := slices.MinFunc(objects, func(a, b sif.Object) int { return int(a.ID) - int(b.ID) }).ID
	for _, signed := range m.Objects {
		id := uint64(first) + uint64(signed.RelativeID)
		i := slices.IndexFunc(objects, func(o sif.Object) bool { return uint64(o.ID) == id })
		if i < 0 {
			return &VerifyError{GroupID: s.GroupID, Err: fmt.Errorf("signed object %d is gone", id)}
		}
		o := objects[i]
		fail := func(what string) error {
			return &VerifyError{ObjectID: o.ID, GroupID: s.GroupID, Err: errors.New(what)}
		}
		if !signed.DescriptorDigest.matches(o.SignedDescriptor(signed.RelativeID)) {
			return fail("descriptor was changed")
		}
		sum, err := v.sum(ctx, o, signed.ObjectDigest.hash)
		if err != nil {
			return err
		}
		if !bytes.Equal(sum, signed.ObjectDigest.value) {
			return fail("data was changed")
		}
		s.Covers = append(s.Covers, o.ID)
	}
	return nil
}

func (v *verifier) checkLegacy(ctx context.Context, s *Signature, text []byte, h crypto.Hash) error {
	fail := func(err error) error {
		return &VerifyError{ObjectID: s.LinkedID, GroupID: s.GroupID, Err: err}
	}
	if !v.opts.Legacy {
		return fail(fmt.Errorf("signature in the format before 3.6: %w", errors.ErrUnsupported))
	}
	d, err := parseLegacy(text, h)
	if err != nil {
		return fail(err)
	}
	var objects []sif.Object
	if s.GroupID != 0 {
		objects = v.group(s.GroupID)
	} else if o, err := v.f.Object(s.LinkedID); err == nil && o.Type != sif.DataSignature {
		objects = []sif.Object{o}
	}
	if len(objects) == 0 {
		return fail(errors.New("signed object is gone"))
	}
	w := d.hash.New()
	for _, o := range objects {
		if err := v.read(ctx, w, o); err != nil {
			return err
		}
		s.Covers = append(s.Covers, o.ID)
	}
	if !bytes.Equal(w.Sum(nil), d.value) {
		return fail(errors.New("data was changed"))
	}
	return nil
}

// group returns the objects of a group in the order of their descriptors.
func (v *verifier) group(id uint32) []sif.Object {
	return slices.DeleteFunc(v.f.Objects(), func(o sif.Object) bool { return o.GroupID != id })
}

// sum hashes an object, once per algorithm.
func (v *verifier) sum(ctx context.Context, o sif.Object, h crypto.Hash) ([]byte, error) {
	key := sumKey{o.ID, h}
	if sum, ok := v.sums[key]; ok {
		return sum, nil
	}
	w := h.New()
	if err := v.read(ctx, w, o); err != nil {
		return nil, err
	}
	v.sums[key] = w.Sum(nil)
	return v.sums[key], nil
}

func (v *verifier) read(ctx context.Context, w io.Writer, o sif.Object) error {
	r := o.Open()
	for {
		if err := ctx.Err(); err != nil {
			return &readFailure{err}
		}
		_, err := io.CopyN(w, r, readSize)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return &readFailure{fmt.Errorf("sign: object %d: %w", o.ID, err)}
		}
	}
	// A file that was cut after its size was taken reads as a shorter object, whose digest will not match.
	return nil
}

// assign tells each object which signatures cover it.
func (r *Result) assign() {
	for _, s := range r.Signatures {
		for _, id := range s.Covers {
			for i := range r.Objects {
				if r.Objects[i].ID == id {
					r.Objects[i].Signatures = append(r.Objects[i].Signatures, s.ObjectID)
				}
			}
		}
	}
}

func (r *Result) judge(opts *VerifyOptions) error {
	if len(r.Signatures) == 0 {
		return ErrUnsigned
	}
	var errs []error
	trusted, broken := false, make(map[uint32]bool)
	for _, s := range r.Signatures {
		trusted = trusted || s.Trusted
		// An old signature beside a new one is history, unless the caller counts on old ones.
		if s.Trusted && s.Err != nil && (s.Format != FormatLegacy || opts.Legacy) {
			errs = append(errs, s.Err)
			broken[s.GroupID] = true
		}
	}
	if !trusted {
		return ErrUntrusted
	}
	for _, o := range r.Objects {
		primary := o.Type == sif.DataPartition && o.Partition.Type == sif.PartitionPrimarySystem
		// What is wrong with a group has been said above.
		if !o.Covered() && (primary || !opts.AllowUncovered) && !broken[o.GroupID] {
			errs = append(errs, &VerifyError{ObjectID: o.ID, GroupID: o.GroupID, Err: ErrUnsigned})
		}
	}
	if len(errs) == 0 && !slices.ContainsFunc(r.Objects, Object.Covered) {
		return ErrUnsigned // nothing is covered, and nothing would have to be
	}
	return errors.Join(errs...)
}
