package sign

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// CertificateError says why a certificate does not vouch for its key.
type CertificateError struct {
	Certificate *x509.Certificate
	Err         error // of package crypto/x509, as a rule
}

func (e *CertificateError) Error() string {
	return fmt.Sprintf("sign: certificate %q: %v", e.Certificate.Subject.String(), e.Err)
}

// Unwrap returns Err.
func (e *CertificateError) Unwrap() error { return e.Err }

// trustedKey is a key for DSSE, and the certificate by which it is trusted, if it is by one.
type trustedKey struct {
	crypto.PublicKey
	certificate *x509.Certificate
}

func (o *VerifyOptions) trustedKeys() ([]trustedKey, error) {
	var keys []trustedKey
	for _, k := range o.PublicKeys {
		if err := checkPublicKey(k, minVerifyRSABits); err != nil {
			return nil, err
		}
		keys = append(keys, trustedKey{k, nil})
	}
	for _, c := range o.Certificates {
		if err := o.checkCertificate(c); err != nil {
			return nil, &CertificateError{Certificate: c, Err: err}
		}
		keys = append(keys, trustedKey{c.PublicKey, c})
	}
	return keys, nil
}

func (o *VerifyOptions) checkCertificate(c *x509.Certificate) error {
	if o.Roots == nil { // package x509 would take those of the web
		return errors.New("no roots are given")
	}
	at := o.Time
	if at.IsZero() {
		at = time.Now()
	}
	_, err := c.Verify(x509.VerifyOptions{
		Roots: o.Roots, Intermediates: o.Intermediates, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	})
	if err != nil {
		return err
	}
	if c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return errors.New("not for signatures")
	}
	return checkPublicKey(c.PublicKey, minVerifyRSABits)
}
