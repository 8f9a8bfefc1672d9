package sign

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	sylabs "github.com/sylabs/sif/v2/pkg/sif"

	"hpcimg/internal/sifedit"
	"hpcimg/sif"
)

// signatureHash is what messages are signed with, as sylabs/sif does.
const signatureHash = crypto.SHA256

// Options say what Sign signs.
type Options struct {
	// Groups lists object groups that get one signature each. With neither Groups nor Objects, all groups of the file do.
	Groups []uint32
	// Objects lists objects that get one signature for those of each group.
	Objects []uint32
	// Replace removes all earlier signatures.
	Replace bool
	// Passphrase is asked for the passphrase of a protected key. It is called at most once, and the slice is overwritten after use.
	Passphrase func(*Key) ([]byte, error)
	// Signer signs in place of the secret half of an RSA key, which then need not be there: a token, or an agent.
	Signer crypto.Signer
	// Time is the time of the signature; zero means now. With a time given, the same file and key make the same bytes.
	Time time.Time
}

// Sign signs the SIF file at path with a key for which CanSign returns nil. The file is replaced in one step: an error, a cancelled context or
// a killed process leaves the old one. Mode and, where permitted, owner stay.
//
// An image that has the nil UUID and no times, as reproducible images do, keeps that; in others the time is stored as the time of
// modification.
func Sign(ctx context.Context, path string, key *Key, opts *Options) error {
	var o Options
	if opts != nil {
		o = *opts
	}
	if key == nil {
		return fmt.Errorf("sign: no key: %w", fs.ErrInvalid)
	}
	if err := key.canSign(o.Signer != nil); err != nil {
		return err
	}
	entity, err := unlock(key, &o)
	if err != nil {
		return err
	}
	if err := tryKey(entity, o.Time); err != nil {
		return &KeyError{Fingerprint: key.Fingerprint(), Err: err}
	}
	return edit(ctx, path, pgpSealer(entity, o.Time), &o)
}

// SignDSSE is Sign with a DSSE envelope that holds a signature by each of signers: ECDSA on P-256, P-384 or P-521, Ed25519, or RSA of 3072 bits or more. A signer
// may be a key that ReadPrivateKey has read, a token or an agent. One signature that verifies is enough for others to accept
// the envelope. Options.Passphrase and Signer are not used.
func SignDSSE(ctx context.Context, path string, signers []crypto.Signer, opts *Options) error {
	var o Options
	if opts != nil {
		o = *opts
	}
	switch {
	case len(signers) == 0:
		return fmt.Errorf("sign: no signers: %w", fs.ErrInvalid)
	case len(signers) > maxEnvelopeSigners:
		return &LimitError{What: "number of signers of an envelope", Limit: maxEnvelopeSigners}
	}
	for _, s := range signers {
		if err := checkPublicKey(s.Public(), minRSABits); err != nil {
			return err
		}
	}
	seal := func(message []byte) ([]byte, error) { return sealDSSE(message, signers) }
	return edit(ctx, path, sealer{seal: seal}, &o)
}

func edit(ctx context.Context, path string, s sealer, o *Options) error {
	check := func(r io.ReaderAt, size int64) error {
		_, err := sif.NewFile(r, size)
		return err
	}
	return sifedit.Edit(ctx, path, check, func(f *sylabs.FileImage) error {
		return signImage(ctx, f, s, o)
	})
}

// token remembers the error that the OpenPGP library drops.
type token struct {
	crypto.Signer
	err error
}

func (t *token) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	sig, err := t.Signer.Sign(rand, digest, opts)
	t.err = err
	return sig, err
}

// tokenError is err, or rather why the token of e failed.
func tokenError(e *openpgp.Entity, err error) error {
	if t, ok := e.PrivateKey.PrivateKey.(*token); ok && t.err != nil {
		return t.err
	}
	return err
}

// tryKey signs something and verifies that. A key that has expired, or whose primary half is only for certifying others, signs without a word
// what nobody will accept.
func tryKey(e *openpgp.Entity, at time.Time) error {
	var b bytes.Buffer
	config := &packet.Config{Time: clock(at)}
	w, err := clearsign.Encode(&b, e.PrivateKey, config)
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return tokenError(e, err)
	}
	block, _ := clearsign.Decode(b.Bytes())
	if block == nil {
		return errors.New("signature is not readable")
	}
	_, err = block.VerifySignature(openpgp.EntityList{e}, nil)
	if errors.Is(err, pgperrors.ErrUnknownIssuer) {
		return fmt.Errorf("primary key is not for signing, and a subkey cannot sign a SIF file: %w", errors.ErrUnsupported)
	}
	return err
}

// sealer signs a message. It returns what goes into the data object of the signature.
type sealer struct {
	fingerprint []byte // of the OpenPGP key, if it is one
	seal        func(message []byte) ([]byte, error)
}

// pgpSealer makes clear-signed messages.
func pgpSealer(e *openpgp.Entity, at time.Time) sealer {
	// Without the salt the same file, key and time make the same bytes.
	salted := at.IsZero()
	config := &packet.Config{Time: clock(at), DefaultHash: signatureHash, NonDeterministicSignaturesViaNotation: &salted}
	return sealer{e.PrimaryKey.Fingerprint, func(message []byte) ([]byte, error) {
		var b bytes.Buffer
		w, err := clearsign.Encode(&b, e.PrivateKey, config)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(message); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, tokenError(e, err)
		}
		return b.Bytes(), nil
	}}
}

// target is a group, and those of its objects that are to be signed.
type target struct {
	group   uint32
	objects []sylabs.Descriptor // by ID
}

func signImage(ctx context.Context, f *sylabs.FileImage, s sealer, o *Options) error {
	if o.Replace {
		if err := removeSignatures(f, o.Time); err != nil {
			return err
		}
	}
	targets, err := selectTargets(f, o)
	if err != nil {
		return err
	}
	if f.DescriptorsFree() < int64(len(targets)) {
		return &LimitError{What: "number of descriptors", Limit: f.DescriptorsTotal()}
	}
	for _, t := range targets {
		if err := signTarget(ctx, f, t, s, o); err != nil {
			return err
		}
	}
	return nil
}

func selectTargets(f *sylabs.FileImage, o *Options) ([]target, error) {
	groups := make(map[uint32][]sylabs.Descriptor)
	byID := make(map[uint32]sylabs.Descriptor)
	f.WithDescriptors(func(d sylabs.Descriptor) bool {
		byID[d.ID()] = d
		if d.DataType() != sylabs.DataSignature && d.GroupID() != 0 {
			groups[d.GroupID()] = append(groups[d.GroupID()], d)
		}
		return false
	})
	var targets []target
	for _, id := range o.Groups {
		if len(groups[id]) == 0 {
			return nil, fmt.Errorf("sign: group %d: %w", id, fs.ErrNotExist)
		}
		targets = append(targets, target{id, groups[id]})
	}
	chosen := make(map[uint32][]sylabs.Descriptor)
	for _, id := range o.Objects {
		d, ok := byID[id]
		switch {
		case !ok:
			return nil, fmt.Errorf("sign: object %d: %w", id, fs.ErrNotExist)
		case d.DataType() == sylabs.DataSignature || d.GroupID() == 0:
			return nil, fmt.Errorf("sign: object %d is in no group that could be signed: %w", id, fs.ErrInvalid)
		}
		chosen[d.GroupID()] = append(chosen[d.GroupID()], d)
	}
	if len(targets) == 0 && len(chosen) == 0 {
		if chosen = groups; len(groups) == 0 {
			return nil, fmt.Errorf("sign: nothing to sign: %w", fs.ErrNotExist)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(chosen)) {
		targets = append(targets, target{id, chosen[id]})
	}
	for _, t := range targets {
		slices.SortFunc(t.objects, func(a, b sylabs.Descriptor) int { return cmp.Compare(a.ID(), b.ID()) })
	}
	return targets, nil
}

func signTarget(ctx context.Context, f *sylabs.FileImage, t target, s sealer, o *Options) error {
	text, err := describe(ctx, f, t)
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	data, err := s.seal(text)
	if err != nil {
		return err
	}
	input, err := sylabs.NewDescriptorInput(sylabs.DataSignature, bytes.NewReader(data),
		sylabs.OptNoGroup(), sylabs.OptLinkedGroupID(t.group), sylabs.OptSignatureMetadata(signatureHash, s.fingerprint))
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	var opts []sylabs.AddOpt
	switch {
	case reproducible(f):
		opts = append(opts, sylabs.OptAddDeterministic())
	case !o.Time.IsZero():
		opts = append(opts, sylabs.OptAddWithTime(o.Time))
	}
	if err := f.AddObject(input, opts...); err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	return nil
}

// describe returns the message that is signed for t, byte for byte as sylabs/sif has it.
func describe(ctx context.Context, f *sylabs.FileImage, t target) ([]byte, error) {
	m := message{Version: messageVersion}
	var err error
	if m.Header.Digest, err = readDigest(ctx, f.GetHeaderIntegrityReader()); err != nil {
		return nil, err
	}
	first := t.objects[0].ID()
	f.WithDescriptors(func(d sylabs.Descriptor) bool {
		if d.GroupID() == t.group && d.DataType() != sylabs.DataSignature {
			first = min(first, d.ID())
		}
		return false
	})
	for i, d := range t.objects {
		if i > 0 && d.ID() == t.objects[i-1].ID() {
			continue // asked for twice
		}
		entry := messageObject{RelativeID: d.ID() - first}
		if entry.DescriptorDigest, err = readDigest(ctx, d.GetIntegrityReader()); err != nil {
			return nil, err
		}
		if entry.ObjectDigest, err = readDigest(ctx, d.GetReader()); err != nil {
			return nil, err
		}
		m.Objects = append(m.Objects, entry)
	}
	return json.Marshal(m)
}

func reproducible(f *sylabs.FileImage) bool {
	return f.ID() == "00000000-0000-0000-0000-000000000000" && f.CreatedAt().Unix() == time.Time{}.Unix()
}

func removeSignatures(f *sylabs.FileImage, t time.Time) error {
	opts := []sylabs.DeleteOpt{sylabs.OptDeleteZero(true), sylabs.OptDeleteCompact(true)}
	if !t.IsZero() && !reproducible(f) {
		opts = append(opts, sylabs.OptDeleteWithTime(t))
	}
	err := f.DeleteObjects(sylabs.WithDataType(sylabs.DataSignature), opts...)
	if err != nil && !errors.Is(err, sylabs.ErrObjectNotFound) {
		return fmt.Errorf("sign: remove signatures: %w", err)
	}
	return nil
}

// unlock returns the key ready to sign.
func unlock(key *Key, o *Options) (*openpgp.Entity, error) {
	e, err := key.entity()
	if err != nil {
		return nil, err
	}
	fail := func(err error) error { return &KeyError{Fingerprint: key.Fingerprint(), Err: err} }
	if o.Signer != nil {
		rsa, ok := o.Signer.Public().(*rsa.PublicKey)
		if !ok || !rsa.Equal(e.PrimaryKey.PublicKey) {
			return nil, fail(errors.New("signer has another key, or one that is not RSA"))
		}
		e.PrivateKey = &packet.PrivateKey{PublicKey: *e.PrimaryKey, PrivateKey: &token{Signer: o.Signer}}
		return e, nil
	}
	if e.PrivateKey.Dummy() {
		return nil, fail(errors.New("secret key is kept elsewhere"))
	}
	if !e.PrivateKey.Encrypted {
		return e, nil
	}
	if o.Passphrase == nil {
		return nil, fail(ErrPassphrase)
	}
	secret, err := o.Passphrase(key)
	if err != nil {
		return nil, fail(err)
	}
	defer clear(secret)
	if err := e.PrivateKey.Decrypt(secret); err != nil {
		return nil, fail(fmt.Errorf("%w: %w", ErrPassphrase, err))
	}
	return e, nil
}
