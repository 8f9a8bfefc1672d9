package sign

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"hpcimg/sif"
)

const (
	dssePayloadType    = "application/vnd.sylabs.sif-metadata+json"
	maxEnvelopeSigners = 16
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
		return v.authenticateDSSE(s, &envelope)
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

// dsseEnvelope is described at https://github.com/secure-systems-lab/dsse.
type dsseEnvelope struct {
	PayloadType string `json:"payloadType"`
	Payload     string `json:"payload"`
	Signatures  []struct {
		Sig string `json:"sig"`
	} `json:"signatures"`
}

func (v *verifier) authenticateDSSE(s *Signature, e *dsseEnvelope) ([]byte, error) {
	payload, err := decodeBase64(e.Payload)
	if err != nil {
		return nil, v.unreadable(s, "malformed envelope")
	}
	if len(e.Signatures) > maxEnvelopeSigners {
		return nil, &LimitError{What: "number of signers of an envelope", Limit: maxEnvelopeSigners}
	}
	signed := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(e.PayloadType), e.PayloadType, len(payload), payload)
	for _, key := range v.opts.PublicKeys {
		for _, entry := range e.Signatures {
			sig, err := decodeBase64(entry.Sig)
			if err == nil && checkSignature(key, signed, sig) {
				s.PublicKeys = append(s.PublicKeys, key)
				break
			}
		}
	}
	if len(s.PublicKeys) == 0 {
		return nil, ErrUntrusted
	}
	s.Trusted = true
	return payload, nil
}

func decodeBase64(s string) ([]byte, error) {
	if b, err := base64.StdEncoding.DecodeString(s); err == nil {
		return b, nil
	}
	return base64.URLEncoding.DecodeString(s)
}

func checkSignature(key crypto.PublicKey, message, sig []byte) bool {
	sum := sha256.Sum256(message)
	switch key := key.(type) {
	case ed25519.PublicKey:
		return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, message, sig)
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, sum[:], sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig) == nil
	}
	return false
}
