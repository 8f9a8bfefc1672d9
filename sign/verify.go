package sign

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"hpcimg/sif"
)

const (
	maxSignatures    = 50
	maxSignatureSize = 1 << 20
	readSize         = 256 << 10
)

// VerifyOptions say whom to trust. With neither Keyring nor PublicKeys nor Certificates nobody is.
type VerifyOptions struct {
	// Keyring holds the trusted OpenPGP keys.
	Keyring *Keyring
	// Signers narrows Keyring to these fingerprints; empty: all of its keys are trusted.
	Signers []Fingerprint
	// PublicKeys are trusted for DSSE signatures: ed25519.PublicKey, *ecdsa.PublicKey or *rsa.PublicKey.
	PublicKeys []crypto.PublicKey
	// Certificates are trusted for DSSE signatures by their keys, if each leads by way of Intermediates to one of Roots, is for code signing, and
	// is valid at Time, as everything on the way has to be: a SIF file does not say in a way that could be trusted when it was signed.
	// There are no default roots.
	Certificates         []*x509.Certificate
	Roots, Intermediates *x509.CertPool
	// Legacy accepts signatures in the format before Singularity 3.6, which cover nothing but the bytes of objects.
	Legacy bool
	// AllowUncovered accepts a file of which only the primary partition is covered. Without it every object must be.
	AllowUncovered bool
	// Time is compared with the lifetime of keys and signatures; zero means now.
	Time time.Time
	// Workers is how many objects are read at a time; 0 means GOMAXPROCS.
	Workers int
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
	// ClaimedKeyIDs are the hints in a DSSE envelope, as `ssh-keygen -l` prints fingerprints. Anybody can write them there, too.
	ClaimedKeyIDs []string
	// Trusted is set when a trusted key made the signature, whether or not what it says of the file holds.
	Trusted bool
	// Signer is the OpenPGP key that made it, and PublicKeys are the keys that made a DSSE one, if Trusted.
	Signer     *Key
	PublicKeys []crypto.PublicKey
	// Certificates are those by which keys among PublicKeys are trusted.
	Certificates []*x509.Certificate
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
	v := &verifier{f: f}
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
	if v.keys, err = v.opts.trustedKeys(); err != nil {
		return nil, err
	}
	result, err := v.collect()
	if err != nil {
		return nil, err
	}
	var claims []*claim
	for i := range result.Signatures {
		c, err := v.read(&result.Signatures[i])
		if err != nil {
			return nil, err
		}
		if c != nil {
			claims = append(claims, c)
		}
	}
	sums, err := hashObjects(ctx, claims, v.opts.Workers)
	if err != nil {
		return nil, err
	}
	for _, c := range claims {
		c.check(sums)
	}
	result.assign()
	return result, result.judge(&v.opts)
}

type verifier struct {
	f        *sif.File
	opts     VerifyOptions
	entities openpgp.EntityList
	keys     []trustedKey // for DSSE
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

// claim is a signature by a trusted key and what it says of the file, as far as it has been checked.
type claim struct {
	signature *Signature
	sums      []sumClaim
}

// sumClaim says what the digest of some objects, one after the other, should be.
type sumClaim struct {
	sumKey
	objects []sif.Object
	want    []byte
}

// sumKey names the digest of objects, by their IDs.
type sumKey struct {
	ids  string
	hash crypto.Hash
}

func newSumClaim(objects []sif.Object, d digest) sumClaim {
	var ids []byte
	for _, o := range objects {
		ids = append(strconv.AppendUint(ids, uint64(o.ID), 10), ' ')
	}
	return sumClaim{sumKey{string(ids), d.hash}, objects, d.value}
}

// read finds out who made a signature and checks what it says but for the digests of objects. It returns an error only if it could
// not; s.Err is what does not hold.
func (v *verifier) read(s *Signature) (*claim, error) {
	o, err := v.f.Object(s.ObjectID)
	if err != nil {
		return nil, err
	}
	data := make([]byte, o.Size)
	if _, err := io.ReadFull(o.Open(), data); err != nil && o.Size > 0 {
		return nil, fmt.Errorf("sign: object %d: %w", s.ObjectID, err)
	}
	text, err := v.authenticate(s, o, data)
	if err != nil {
		s.Err = err
		return nil, nil
	}
	c := &claim{signature: s}
	if s.Format == FormatLegacy {
		c.sums, s.Err = v.readLegacy(s, text, o.SignatureHash())
	} else {
		c.sums, s.Err = v.readMessage(s, o, text)
	}
	return c, nil
}

func (v *verifier) readMessage(s *Signature, o sif.Object, text []byte) ([]sumClaim, error) {
	switch {
	case s.GroupID == 0:
		return nil, &VerifyError{ObjectID: s.ObjectID, Err: errors.New("signature is not linked to a group")}
	case o.GroupID != 0:
		// No tool makes such a one, and others would look for the signature of that group in turn.
		return nil, &VerifyError{ObjectID: s.ObjectID, GroupID: s.GroupID, Err: fmt.Errorf("signature is in group %d", o.GroupID)}
	}
	m, err := parseMessage(text)
	if err != nil {
		return nil, &VerifyError{ObjectID: s.ObjectID, GroupID: s.GroupID, Err: err}
	}
	if !m.Header.Digest.matches(v.f.SignedHeader()) {
		return nil, &VerifyError{GroupID: s.GroupID, Err: errors.New("global header was changed")}
	}
	objects := v.group(s.GroupID)
	if len(objects) == 0 {
		return nil, &VerifyError{GroupID: s.GroupID, Err: errors.New("signed group is gone")}
	}
	first := slices.MinFunc(objects, func(a, b sif.Object) int { return int(a.ID) - int(b.ID) }).ID
	var sums []sumClaim
	for _, signed := range m.Objects {
		id := uint64(first) + uint64(signed.RelativeID)
		i := slices.IndexFunc(objects, func(o sif.Object) bool { return uint64(o.ID) == id })
		if i < 0 {
			return nil, &VerifyError{GroupID: s.GroupID, Err: fmt.Errorf("signed object %d is gone", id)}
		}
		o := objects[i]
		if !signed.DescriptorDigest.matches(o.SignedDescriptor(signed.RelativeID)) {
			return nil, &VerifyError{ObjectID: o.ID, GroupID: s.GroupID, Err: errors.New("descriptor was changed")}
		}
		sums = append(sums, newSumClaim([]sif.Object{o}, signed.ObjectDigest))
	}
	return sums, nil
}

func (v *verifier) readLegacy(s *Signature, text []byte, h crypto.Hash) ([]sumClaim, error) {
	fail := func(err error) error {
		return &VerifyError{ObjectID: s.LinkedID, GroupID: s.GroupID, Err: err}
	}
	if !v.opts.Legacy {
		return nil, fail(fmt.Errorf("signature in the format before 3.6: %w", errors.ErrUnsupported))
	}
	d, err := parseLegacy(text, h)
	if err != nil {
		return nil, fail(err)
	}
	var objects []sif.Object
	if s.GroupID != 0 {
		objects = v.group(s.GroupID)
	} else if o, err := v.f.Object(s.LinkedID); err == nil && o.Type != sif.DataSignature {
		objects = []sif.Object{o}
	}
	if len(objects) == 0 {
		return nil, fail(errors.New("signed object is gone"))
	}
	return []sumClaim{newSumClaim(objects, d)}, nil
}

// group returns the objects of a group in the order of their descriptors.
func (v *verifier) group(id uint32) []sif.Object {
	return slices.DeleteFunc(v.f.Objects(), func(o sif.Object) bool { return o.GroupID != id })
}

// check compares the digests of a claim. A signature covers everything that it names or nothing.
func (c *claim) check(sums map[sumKey][]byte) {
	s := c.signature
	if s.Err != nil {
		return
	}
	var covers []uint32
	for _, claimed := range c.sums {
		if !bytes.Equal(sums[claimed.sumKey], claimed.want) {
			e := &VerifyError{ObjectID: s.LinkedID, GroupID: s.GroupID, Err: errors.New("data was changed")}
			if len(claimed.objects) == 1 {
				e.ObjectID = claimed.objects[0].ID
			}
			s.Err = e
			return
		}
		for _, o := range claimed.objects {
			covers = append(covers, o.ID)
		}
	}
	s.Covers = covers
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
