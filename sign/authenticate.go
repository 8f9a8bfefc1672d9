package sign

import (
	"bytes"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"hpcimg/sif"
)

// authenticate finds out who made a signature and returns the text that was signed. Any error means: not by a trusted key.
func (v *verifier) authenticate(s *Signature, o sif.Object, data []byte) ([]byte, error) {
	if block, rest := clearsign.Decode(data); block != nil {
		s.Format = FormatPGP
		if bytes.HasPrefix(block.Plaintext, []byte(legacyPrefix)) {
			s.Format = FormatLegacy
		}
		if !bytes.HasPrefix(data, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) || len(bytes.TrimSpace(rest)) > 0 {
			return nil, v.unreadable(s, "text around the signed message")
		}
		return v.authenticatePGP(s, o, block)
	}
	var envelope dsseEnvelope
	if json.Unmarshal(data, &envelope) == nil && envelope.PayloadType == dssePayloadType {
		s.Format = FormatDSSE
		return v.authenticateDSSE(s, &envelope, o.SignatureHash())
	}
	return nil, v.unreadable(s, "signature format not recognised")
}

func (v *verifier) unreadable(s *Signature, why string) error {
	return &VerifyError{ObjectID: s.ObjectID, GroupID: s.GroupID, Err: errors.New(why)}
}

func (v *verifier) authenticatePGP(s *Signature, o sif.Object, block *clearsign.Block) ([]byte, error) {
	// Older hashes can be made to collide (CVE-2022-39237).
	hashes := []crypto.Hash{crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512}
	config := &packet.Config{Time: clock(v.opts.Time)}
	e, err := openpgp.CheckDetachedSignatureAndHash(v.entities, bytes.NewReader(block.Bytes), block.ArmoredSignature.Body, hashes, config)
	if errors.Is(err, pgperrors.ErrUnknownIssuer) {
		return nil, ErrUntrusted
	}
	if err != nil {
		return nil, &VerifyError{ObjectID: s.ObjectID, GroupID: s.GroupID, Err: err}
	}
	fp := fingerprintOf(e.PrimaryKey.Fingerprint)
	if claimed := o.Fingerprint(); !bytes.Equal(claimed, e.PrimaryKey.Fingerprint) {
		return nil, v.unreadable(s, fmt.Sprintf("descriptor names signer %X, but it is %s", claimed, fp))
	}
	signer, err := v.opts.Keyring.Find(fp)
	if err != nil {
		return nil, err
	}
	s.Signer, s.Trusted = signer.Public(), true
	return block.Plaintext, nil
}
