package plane

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// authority is a certificate authority whose key never leaves this process.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// lifetime is that of certificates that nothing is said of: longer than any test, and short enough to be worthless when found.
const lifetime = 6 * time.Hour

// slack is how long before its making a certificate is valid, as times in certificates are whole seconds.
const slack = time.Minute

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of authority %s: %w", name, err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-slack), NotAfter: now.Add(lifetime),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make certificate of authority %s: %w", name, err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read certificate of authority %s: %w", name, err)
	}
	return &authority{certificate, key}, nil
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // documented never to happen
	}
	return n
}

// pem returns the authority's certificate.
func (a *authority) pem() []byte { return encode("CERTIFICATE", a.certificate.Raw) }

// server issues the certificate of a server that is reached at some addresses and names.
func (a *authority) server(name string, addrs []netip.Addr, names ...string) (*pair, error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: names,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, addr := range addrs {
		template.IPAddresses = append(template.IPAddresses, net.IP(addr.AsSlice()))
	}
	return a.issue(template, lifetime)
}

// client issues the certificate by which a user and its groups are known.
func (a *authority) client(id Identity) (*pair, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: id.User, Organization: id.Groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	validFor := id.ValidFor
	if validFor == 0 {
		validFor = lifetime
	}
	return a.issue(template, validFor)
}

// pair is a certificate and its key, in PEM.
type pair struct{ certificate, key []byte }

func (a *authority) issue(template *x509.Certificate, validFor time.Duration) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of %s: %w", template.Subject.CommonName, err)
	}
	now := time.Now()
	template.SerialNumber, template.NotBefore, template.NotAfter = serial(), now.Add(-slack), now.Add(validFor)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("make certificate of %s: %w", template.Subject.CommonName, err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("write key of %s: %w", template.Subject.CommonName, err)
	}
	return &pair{encode("CERTIFICATE", der), encode("PRIVATE KEY", private)}, nil
}

// write puts the pair into a folder, as name.crt and name.key.
func (p *pair) write(folder, name string) error {
	return errors.Join(
		replaceFile(filepath.Join(folder, name+".key"), p.key),
		replaceFile(filepath.Join(folder, name+".crt"), p.certificate))
}

// writeTokenKey makes the key that signs tokens of ServiceAccounts.
func writeTokenKey(path string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("make key for tokens: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("write key for tokens: %w", err)
	}
	return replaceFile(path, encode("PRIVATE KEY", private))
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// replaceFile writes a file so that who reads it sees the old content or the new one.
func replaceFile(path string, content []byte) error {
	hidden := path + ".new"
	if err := os.WriteFile(hidden, content, 0o600); err != nil {
		return err
	}
	return os.Rename(hidden, path)
}
