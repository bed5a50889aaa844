"""Certificates for signing, made on the spot: an authority of our own and a signer that it vouches for."""

from __future__ import annotations

import datetime
from pathlib import Path


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """PEM files of a certificate chain that C2PA takes, and of its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def build(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, ca: bool):  # type: ignore[no-untyped-def]
        now = datetime.datetime.now(datetime.UTC)
        signs = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
        )
        usage = x509.KeyUsage(True, key_cert_sign=ca, crl_sign=ca, decipher_only=False, **signs)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        return (
            x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(identifier, critical=False)
        )

    def name(common: str) -> x509.Name:
        parts = (NameOID.COMMON_NAME, common), (NameOID.ORGANIZATION_NAME, "Tests")
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])

    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = build(name("Authority"), name("Authority"), authority_key, True).sign(authority_key, hashes.SHA256())
    signer = (
        build(name("Signer"), authority.subject, key, False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    pem = serialization.Encoding.PEM
    (folder / "chain.pem").write_bytes(signer.public_bytes(pem) + authority.public_bytes(pem))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, *plain))
    return folder / "chain.pem", folder / "key.pem"
