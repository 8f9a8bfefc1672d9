package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

const (
	minVerifyRSABits = 2048
	maxPEM           = 1 << 20
)

// The types of PEM blocks.
const (
	pemPKCS8       = "PRIVATE KEY"
	pemPKCS1       = "RSA PRIVATE KEY"
	pemSEC1        = "EC PRIVATE KEY"
	pemSigstore    = "ENCRYPTED SIGSTORE PRIVATE KEY"
	pemCosign      = "ENCRYPTED COSIGN PRIVATE KEY" // before cosign 2
	pemPublic      = "PUBLIC KEY"
	pemCertificate = "CERTIFICATE"
)

// IsPEM reports whether data is in PEM, as the keys of DSSE and cosign are, and not an OpenPGP key.
func IsPEM(data []byte) bool { return looksLikePEM(data) }

// ReadPrivateKey reads the first private key of a PEM file: PKCS #8, PKCS #1 and SEC 1 in the clear, or as cosign encrypts them. The passphrase is asked for
// at most once and overwritten after use. The error matches ErrPassphrase if it is missing or wrong, and errors.ErrUnsupported for
// other formats.
func ReadPrivateKey(r io.Reader, passphrase func() ([]byte, error)) (crypto.Signer, error) {
	data, err := readPEM(r)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case pemPKCS8:
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case pemPKCS1:
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case pemSEC1:
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case pemSigstore, pemCosign:
			key, err = decryptKey(block.Bytes, passphrase)
		case "ENCRYPTED PRIVATE KEY":
			err = fmt.Errorf("PKCS #8 with a passphrase: %w (cosign import-key-pair makes a kind that is read)", errors.ErrUnsupported)
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("sign: private key: %w", err)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("sign: private key: %T does not sign: %w", key, errors.ErrUnsupported)
		}
		if err := checkPublicKey(signer.Public(), minVerifyRSABits); err != nil {
			return nil, err
		}
		return signer, nil
	}
	return nil, errors.New("sign: no private key found")
}

// ReadPublicKeys reads the public keys of a PEM file.
func ReadPublicKeys(r io.Reader) ([]crypto.PublicKey, error) {
	data, err := readPEM(r)
	if err != nil {
		return nil, err
	}
	var keys []crypto.PublicKey
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != pemPublic {
			continue
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("sign: public key: %w", err)
		}
		if err := checkPublicKey(key, minVerifyRSABits); err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("sign: no public key found")
	}
	return keys, nil
}

// ReadCertificates reads the X.509 certificates of a PEM file.
func ReadCertificates(r io.Reader) ([]*x509.Certificate, error) {
	data, err := readPEM(r)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != pemCertificate {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("sign: certificate: %w", err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("sign: no certificate found")
	}
	return certs, nil
}

func readPEM(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxPEM+1))
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if len(data) > maxPEM {
		return nil, &LimitError{What: "size of a PEM file", Limit: maxPEM}
	}
	return data, nil
}

// WritePrivateKey writes a key in PEM: PKCS #8 if the passphrase is empty, else encrypted as cosign does.
func WritePrivateKey(w io.Writer, key crypto.Signer, passphrase []byte) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("sign: %w: %w", errors.ErrUnsupported, err)
	}
	defer clear(der)
	block := &pem.Block{Type: pemPKCS8, Bytes: der}
	if len(passphrase) > 0 {
		sealed, err := encryptKey(der, passphrase)
		if err != nil {
			return err
		}
		block = &pem.Block{Type: pemSigstore, Bytes: sealed}
	}
	return pem.Encode(w, block)
}

// WritePublicKey writes a key in PEM.
func WritePublicKey(w io.Writer, key crypto.PublicKey) error {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return fmt.Errorf("sign: %w: %w", errors.ErrUnsupported, err)
	}
	return pem.Encode(w, &pem.Block{Type: pemPublic, Bytes: der})
}

// KeyType is the kind of a key for DSSE and cosign.
type KeyType string

// The kinds of keys for DSSE and cosign.
const (
	KeyECDSA   KeyType = "ecdsa" // P-256, as cosign makes
	KeyEd25519 KeyType = "ed25519"
	KeyRSA     KeyType = "rsa" // 3072 bits
)

// GeneratePrivateKey makes a key for DSSE and cosign.
func GeneratePrivateKey(kind KeyType) (crypto.Signer, error) {
	switch kind {
	case KeyECDSA:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case KeyEd25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case KeyRSA:
		return rsa.GenerateKey(rand.Reader, minRSABits)
	}
	return nil, fmt.Errorf("sign: kind of key %q: %w", kind, fs.ErrInvalid)
}

// PublicKeyID returns a name for a key that cannot be forged: "sha256:" and the SHA-256 of its SubjectPublicKeyInfo in hexadecimal, as
// `openssl pkey -pubin -outform DER | sha256sum` has it.
func PublicKeyID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("sign: %w: %w", errors.ErrUnsupported, err)
	}
	sum := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// checkPublicKey refuses keys that are too weak or of a kind that is not known.
func checkPublicKey(key crypto.PublicKey, minRSA int) error {
	switch key := key.(type) {
	case ed25519.PublicKey:
		if len(key) == ed25519.PublicKeySize {
			return nil
		}
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < minRSA || n > maxRSABits {
			return fmt.Errorf("sign: RSA key of %d bits, need %d: %w", n, minRSA, errors.ErrUnsupported)
		}
		return nil
	}
	return fmt.Errorf("sign: %T is not a key for DSSE: %w", key, errors.ErrUnsupported)
}
