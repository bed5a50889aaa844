"""Image files signed with C2PA: who vouches for it that a model drew them.

The label in XMP (see `labelling`) can be edited by anybody. A C2PA manifest (Content Credentials, version 2) says the
same under a signature over the file. It holds random numbers, so two signatures of one picture differ: of signed files
the pixels are compared, not the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from ..errors import InputError, refusing
from .labelling import SOURCE_TYPE
from .settings import ImageFormat, SigningSettings
from .versions import library_versions

_TYPES: dict[ImageFormat, str] = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_INSTALL = "the package c2pa-python is not installed; install stablerep_hf[c2pa]"


class ContentSigner:
    """Signs image files. Threads may share one."""

    def __init__(self, certificate: str | Path, private_key: str | Path, timestamp_url: str | None = None) -> None:
        """Read certificate and key, and sign a trial image.

        Args:
            certificate: PEM file: the signer's certificate and then those of its issuers, as C2PA asks of them (X.509
                version 3 with the extended key usage of document signing or e-mail protection, not self-signed).
            private_key: PEM file, not encrypted: ECDSA on P-256 or P-384, Ed25519, or RSA.
            timestamp_url: A time-stamping authority (RFC 3161), asked once an image; without one a signature holds no
                time, and ends with its certificate.

        Raises:
            InputError: The package is missing, or they cannot be read or sign nothing.
        """
        try:
            import c2pa
            from cryptography import x509
            from cryptography.hazmat.primitives import hashes, serialization
        except ImportError as error:
            raise InputError(f"Images cannot be signed, as {_INSTALL}.") from error
        self._chain, self._key = _read(certificate), _read(private_key)
        self._timestamp_url = timestamp_url
        with refusing(
            f"The certificate {Path(certificate).name!r} and the key {Path(private_key).name!r} do not sign",
            "give a PEM chain for C2PA and the key of its first one",
            (ValueError, TypeError, c2pa.C2paError),
        ):
            leaf = x509.load_pem_x509_certificate(self._chain)
            self._fingerprint = leaf.fingerprint(hashes.SHA256()).hex()
            self._algorithm = _algorithm(serialization.load_pem_private_key(self._key, None))
            self._context = c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}})
            from PIL import Image

            from .frames import encode_image

            row = {"path": "trial.png", "generator": None, "generator_revision": None}
            self._sign(encode_image(Image.new("RGB", (8, 8)), "png"), "png", row)

    def describe(self) -> dict[str, str]:
        """What a plan says of the signature, as JSON values: the certificate's SHA-256, never a path."""
        return {"standard": "C2PA", "algorithm": self._algorithm, "certificate": self._fingerprint}

    def sign(self, encoded: bytes, image_format: ImageFormat, row: Mapping[str, Any]) -> bytes:
        """The image file with a manifest in it; its pixels and its XMP stay.

        Of the row it takes `path`, `generator` and `generator_revision`.

        Raises:
            InputError: The certificate ended, or the time-stamping authority does not answer.
        """
        import c2pa

        try:
            return self._sign(encoded, image_format, row)
        except c2pa.C2paError as error:
            raise InputError(
                f"The image {row['path']!r} cannot be signed ({str(error).splitlines()[0].rstrip('.')}); look at the "
                "certificate and the time-stamping authority, and run the command again: what is finished is kept."
            ) from error

    def _sign(self, encoded: bytes, image_format: ImageFormat, row: Mapping[str, Any]) -> bytes:
        import c2pa

        agent = {"name": row["generator"] or "unknown"}
        if row["generator_revision"]:
            agent["version"] = row["generator_revision"]
        manifest = {
            "claim_generator_info": [{"name": "stablerep_hf", "version": library_versions()["stablerep_hf"]}],
            "title": row["path"],
            "format": _TYPES[image_format],
            "assertions": [
                {
                    "label": "c2pa.actions.v2",
                    "data": {
                        "actions": [
                            {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "softwareAgent": agent}
                        ]
                    },
                }
            ],
        }
        # One each: a signer of the library is not for several threads.
        signer = c2pa.Signer.from_info(
            c2pa.C2paSignerInfo(self._algorithm, self._chain, self._key, self._timestamp_url)
        )
        signed = BytesIO()
        c2pa.Builder(manifest, context=self._context).sign(signer, _TYPES[image_format], BytesIO(encoded), signed)
        return signed.getvalue()


def make_signer(settings: SigningSettings | None) -> ContentSigner | None:
    """What signs by these settings, None if they name nothing; `InputError` if a file is missing or wrong."""
    if settings is None or not (settings.certificate or settings.private_key or settings.timestamp_url):
        return None
    if not settings.certificate or not settings.private_key:
        raise InputError("Images are signed with both `certificate` and `private_key`: give both.")
    return ContentSigner(settings.certificate, settings.private_key, settings.timestamp_url)


def read_signature(image: bytes | Path) -> dict[str, Any] | None:
    """What the C2PA manifest of an image file (its bytes, or its path) says, and whether its signature holds.

    Returns:
        `state`: "Valid" if file and signature are as they were made, "Trusted" if the certificate's issuer is trusted
        too, else "Invalid"; `issuer`, `signer` (its common name), `algorithm`, `DigitalSourceType` and `agent`, None
        where it does not say. None if the file holds no manifest.

    Raises:
        InputError: The package is missing.
    """
    content = image if isinstance(image, bytes) else image.read_bytes()
    try:
        import c2pa
    except ImportError as error:
        raise InputError(f"Whether the image is signed cannot be said, as {_INSTALL}.") from error
    from PIL import Image

    with Image.open(BytesIO(content)) as opened:
        kind = Image.MIME[opened.format or ""]
    reader = c2pa.Reader.try_create(kind, BytesIO(content))
    if reader is None:
        return None
    with reader:
        manifest = reader.get_active_manifest() or {}
        info = manifest.get("signature_info", {})
        created = [
            action
            for assertion in manifest.get("assertions", [])
            if assertion["label"].startswith("c2pa.actions")
            for action in assertion["data"]["actions"]
            if action["action"] == "c2pa.created"
        ]
        agent = created[0].get("softwareAgent") if created else None
        return {
            "state": reader.get_validation_state(),
            "issuer": info.get("issuer"),
            "signer": info.get("common_name"),
            "algorithm": info.get("alg"),
            "DigitalSourceType": created[0].get("digitalSourceType") if created else None,
            "agent": agent.get("name") if isinstance(agent, dict) else agent,
        }


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"The file {str(path)!r} cannot be read ({error.strerror}); give a PEM file.") from error


def _algorithm(key: Any) -> str:
    """The name that C2PA gives to what a key signs with."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in ("secp256r1", "secp384r1"):
        return "es256" if key.curve.name == "secp256r1" else "es384"
    raise ValueError("C2PA knows no signature of this kind of key")
