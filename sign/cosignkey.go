package sign

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/crypto/nacl/secretbox"
	"golang.org/x/crypto/scrypt"
)

// sealedKey is how cosign keeps a private key: PKCS #8 in a NaCl secret box whose key comes from a passphrase by way of scrypt.
type sealedKey struct {
	KDF struct {
		Name   string `json:"name"`
		Params struct {
			N int `json:"N"`
			R int `json:"r"`
			P int `json:"p"`
		} `json:"params"`
		Salt []byte `json:"salt"`
	} `json:"kdf"`
	Cipher struct {
		Name  string `json:"name"`
		Nonce []byte `json:"nonce"`
	} `json:"cipher"`
	Ciphertext []byte `json:"ciphertext"`
}

const (
	kdfName, cipherName  = "scrypt", "nacl/secretbox"
	saltSize, nonceSize  = 32, 24
	scryptN              = 1 << 16 // what cosign writes now; 1<<15 is read
	scryptR, scryptP     = 8, 1
	minScryptN, minSaltN = 1 << 14, 16
	maxScryptN           = 1 << 17 // 128 MiB
)

func decryptKey(data []byte, passphrase func() ([]byte, error)) (any, error) {
	var k sealedKey
	if err := json.Unmarshal(data, &k); err != nil {
		return nil, err
	}
	p := k.KDF.Params
	switch {
	case k.KDF.Name != kdfName || k.Cipher.Name != cipherName:
		return nil, fmt.Errorf("protected with %q and %q: %w", k.KDF.Name, k.Cipher.Name, errors.ErrUnsupported)
	case p.N < minScryptN || p.N > maxScryptN || p.R != scryptR || p.P != scryptP: // before they size an allocation
		return nil, fmt.Errorf("scrypt with N=%d r=%d p=%d: %w", p.N, p.R, p.P, errors.ErrUnsupported)
	case len(k.KDF.Salt) < minSaltN || len(k.Cipher.Nonce) != nonceSize:
		return nil, errors.New("malformed salt or nonce")
	case passphrase == nil:
		return nil, ErrPassphrase
	}
	secret, err := passphrase()
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	box, err := boxKey(secret, k.KDF.Salt, p.N)
	if err != nil {
		return nil, err
	}
	der, ok := secretbox.Open(nil, k.Ciphertext, (*[nonceSize]byte)(k.Cipher.Nonce), box)
	if !ok {
		return nil, ErrPassphrase
	}
	defer clear(der)
	return x509.ParsePKCS8PrivateKey(der)
}

func encryptKey(der, passphrase []byte) ([]byte, error) {
	var k sealedKey
	k.KDF.Name, k.Cipher.Name = kdfName, cipherName
	k.KDF.Params.N, k.KDF.Params.R, k.KDF.Params.P = scryptN, scryptR, scryptP
	k.KDF.Salt, k.Cipher.Nonce = make([]byte, saltSize), make([]byte, nonceSize)
	for _, random := range [][]byte{k.KDF.Salt, k.Cipher.Nonce} {
		if _, err := rand.Read(random); err != nil {
			return nil, err
		}
	}
	box, err := boxKey(passphrase, k.KDF.Salt, scryptN)
	if err != nil {
		return nil, err
	}
	k.Ciphertext = secretbox.Seal(nil, der, (*[nonceSize]byte)(k.Cipher.Nonce), box)
	return json.Marshal(k)
}

func boxKey(passphrase, salt []byte, n int) (*[32]byte, error) {
	b, err := scrypt.Key(passphrase, salt, n, scryptR, scryptP, 32)
	if err != nil {
		return nil, err
	}
	return (*[32]byte)(b), nil
}
