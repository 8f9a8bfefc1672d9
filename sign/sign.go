package sign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/sylabs/sif/v2/pkg/integrity"
	sylabs "github.com/sylabs/sif/v2/pkg/sif"

	"hpcimg/internal/sifedit"
	"hpcimg/sif"
)

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
	if err := key.CanSign(); err != nil {
		return err
	}
	entity, err := unlock(key, o.Passphrase)
	if err != nil {
		return err
	}
	if err := tryKey(entity, o.Time); err != nil {
		return &KeyError{Fingerprint: key.Fingerprint(), Err: err}
	}
	check := func(r io.ReaderAt, size int64) error {
		_, err := sif.NewFile(r, size)
		return err
	}
	return sifedit.Edit(ctx, path, check, func(f *sylabs.FileImage) error {
		return signImage(ctx, f, entity, &o)
	})
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
		return err
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

func signImage(ctx context.Context, f *sylabs.FileImage, entity *openpgp.Entity, o *Options) error {
	if o.Replace {
		if err := removeSignatures(f, o.Time); err != nil {
			return err
		}
	}
	opts := []integrity.SignerOpt{
		integrity.OptSignWithEntity(entity),
		integrity.OptSignWithContext(ctx),
	}
	if !o.Time.IsZero() {
		opts = append(opts, integrity.OptSignWithTime(clock(o.Time)), integrity.OptSignWithoutPGPSignatureSalt())
	}
	if reproducible(f) {
		opts = append(opts, integrity.OptSignDeterministic())
	}
	for _, id := range o.Groups {
		opts = append(opts, integrity.OptSignGroup(id))
	}
	if len(o.Objects) > 0 {
		opts = append(opts, integrity.OptSignObjects(o.Objects...))
	}
	if f.DescriptorsFree() == 0 {
		return &LimitError{What: "number of descriptors", Limit: f.DescriptorsTotal()}
	}
	s, err := integrity.NewSigner(f, opts...)
	if err == nil {
		err = s.Sign()
	}
	if errors.Is(err, sylabs.ErrObjectNotFound) {
		err = errors.Join(fs.ErrNotExist, err)
	}
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	return nil
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
func unlock(key *Key, passphrase func(*Key) ([]byte, error)) (*openpgp.Entity, error) {
	e, err := key.entity()
	if err != nil {
		return nil, err
	}
	if e.PrivateKey.Dummy() {
		return nil, &KeyError{Fingerprint: key.Fingerprint(), Err: errors.New("secret key is kept elsewhere")}
	}
	if !e.PrivateKey.Encrypted {
		return e, nil
	}
	if passphrase == nil {
		return nil, &KeyError{Fingerprint: key.Fingerprint(), Err: ErrPassphrase}
	}
	secret, err := passphrase(key)
	if err != nil {
		return nil, &KeyError{Fingerprint: key.Fingerprint(), Err: err}
	}
	defer clear(secret)
	if err := e.PrivateKey.Decrypt(secret); err != nil {
		return nil, &KeyError{Fingerprint: key.Fingerprint(), Err: fmt.Errorf("%w: %w", ErrPassphrase, err)}
	}
	return e, nil
}
