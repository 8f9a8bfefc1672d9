package sign

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

const (
	dssePayloadType    = "application/vnd.sylabs.sif-metadata+json"
	maxEnvelopeSigners = 16
)

// dsseEnvelope is described at https://github.com/secure-systems-lab/dsse.
type dsseEnvelope struct {
	PayloadType string          `json:"payloadType"`
	Payload     string          `json:"payload"`
	Signatures  []dsseSignature `json:"signatures"`
}

type dsseSignature struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
}

// preAuthEncoding is what is signed of an envelope.
func preAuthEncoding(payloadType string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

// sealDSSE makes an envelope as sylabs/sif does.
func sealDSSE(payload []byte, signers []crypto.Signer) ([]byte, error) {
	e := dsseEnvelope{PayloadType: dssePayloadType, Payload: base64.StdEncoding.EncodeToString(payload)}
	for _, s := range signers {
		sig, err := SignMessage(s, preAuthEncoding(dssePayloadType, payload))
		if err != nil {
			return nil, err
		}
		e.Signatures = append(e.Signatures, dsseSignature{dsseKeyID(s.Public()), base64.StdEncoding.EncodeToString(sig)})
	}
	return json.Marshal(e)
}

// SignMessage signs a message as DSSE and cosign do: Ed25519 signs the message; ECDSA (ASN.1) and RSA (PKCS #1 v1.5) its SHA-256. The signature has been
// verified when it is returned, for tokens and agents may be mistaken about what they were asked.
func SignMessage(signer crypto.Signer, message []byte) ([]byte, error) {
	if err := checkPublicKey(signer.Public(), minRSABits); err != nil {
		return nil, err
	}
	input, opts := message, crypto.SignerOpts(crypto.Hash(0))
	if _, ok := signer.Public().(ed25519.PublicKey); !ok {
		h := crypto.SHA256.New()
		h.Write(message)
		input, opts = h.Sum(nil), crypto.SHA256
	}
	sig, err := signer.Sign(rand.Reader, input, opts)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if !VerifyMessage(signer.Public(), message, sig) {
		return nil, errors.New("sign: the signer made a signature that does not verify")
	}
	return sig, nil
}

// VerifyMessage reports whether sig is a signature of message as SignMessage makes them. Keys that nobody should trust any more (RSA of fewer than
// 2048 bits, curves other than P-256, P-384, P-521 and Ed25519) verify nothing.
func VerifyMessage(key crypto.PublicKey, message, sig []byte) bool {
	return checkPublicKey(key, minVerifyRSABits) == nil && verifyMessage(key, crypto.SHA256, message, sig)
}

func verifyMessage(key crypto.PublicKey, hash crypto.Hash, message, sig []byte) bool {
	if key, ok := key.(ed25519.PublicKey); ok {
		return ed25519.Verify(key, message, sig)
	}
	h := hash.New()
	h.Write(message)
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, h.Sum(nil), sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, hash, h.Sum(nil), sig) == nil
	}
	return false
}

func (v *verifier) authenticateDSSE(s *Signature, e *dsseEnvelope, hash crypto.Hash) ([]byte, error) {
	payload, err := decodeBase64(e.Payload)
	if err != nil {
		return nil, v.unreadable(s, "malformed envelope")
	}
	if len(e.Signatures) > maxEnvelopeSigners {
		return nil, &LimitError{What: "number of signers of an envelope", Limit: maxEnvelopeSigners}
	}
	switch hash {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		hash = crypto.SHA256
	}
	for _, entry := range e.Signatures {
		s.ClaimedKeyIDs = append(s.ClaimedKeyIDs, entry.KeyID)
	}
	signed := preAuthEncoding(e.PayloadType, payload)
	for _, key := range v.keys {
		keyID := dsseKeyID(key.PublicKey)
		for _, entry := range e.Signatures {
			if entry.KeyID != "" && entry.KeyID != keyID {
				continue
			}
			sig, err := decodeBase64(entry.Sig)
			if err != nil || !verifyMessage(key.PublicKey, hash, signed, sig) {
				continue
			}
			s.PublicKeys = append(s.PublicKeys, key.PublicKey)
			if key.certificate != nil {
				s.Certificates = append(s.Certificates, key.certificate)
			}
			break
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

// dsseKeyID is the hint that sylabs/sif puts into an envelope: the fingerprint of the key as OpenSSH has it. It looks at no signature with another
// hint than that of its key.
func dsseKeyID(key crypto.PublicKey) string {
	var wire []byte
	add := func(b []byte) { wire = append(binary.BigEndian.AppendUint32(wire, uint32(len(b))), b...) }
	number := func(n *big.Int) { // never negative, so with a zero bit in front
		b := n.Bytes()
		if len(b) > 0 && b[0]&0x80 != 0 {
			b = append([]byte{0}, b...)
		}
		add(b)
	}
	switch key := key.(type) {
	case ed25519.PublicKey:
		add([]byte("ssh-ed25519"))
		add(key)
	case *rsa.PublicKey:
		add([]byte("ssh-rsa"))
		number(big.NewInt(int64(key.E)))
		number(key.N)
	case *ecdsa.PublicKey:
		name := "nistp" + strings.TrimPrefix(key.Curve.Params().Name, "P-")
		point, err := key.Bytes()
		if err != nil {
			return ""
		}
		add([]byte("ecdsa-sha2-" + name))
		add([]byte(name))
		add(point)
	}
	sum := sha256.Sum256(wire)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// looksLikePEM tells PEM from OpenPGP armour and binary.
func looksLikePEM(data []byte) bool {
	return bytes.Contains(data, []byte("-----BEGIN ")) && !bytes.Contains(data, []byte(armorStart))
}
