from __future__ import annotations

import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from certificates import write_certificate
from painters import Painter, picture
from PIL import Image

from stablerep_hf.errors import InputError
from stablerep_hf.synthesis import (
    ContentSigner,
    SynthesisPlan,
    estimate_synthesis,
    read_label,
    read_signature,
    redraw_image,
    synthesize,
    verify_store,
)
from stablerep_hf.synthesis.labelling import SOURCE_TYPE

MakePlan = Callable[..., SynthesisPlan]


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def signer(pem: tuple[Path, Path]) -> ContentSigner:
    return ContentSigner(*pem)


def rows(folder: Path) -> list[dict[str, Any]]:
    data = datasets.load_dataset(str(folder), split="train")
    return data.cast_column("image", datasets.Image(decode=False)).to_list()  # type: ignore[no-any-return]


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp"])
def test_every_file_is_signed_and_says_what_it_said_before(
    make_plan: MakePlan, signer: ContentSigner, tmp_path: Path, image_format: str
) -> None:
    plan = make_plan(6, image_format=image_format, signature=signer.describe())
    bare = make_plan(6, image_format=image_format)
    synthesize(plan, Painter(), tmp_path / "signed", signer=signer, progress=False)
    synthesize(bare, Painter(), tmp_path / "bare", progress=False)
    for row, same in zip(rows(tmp_path / "signed"), rows(tmp_path / "bare"), strict=True):
        content = row["image"]["bytes"]
        assert read_signature(content) == {
            "state": "Valid",  # not trusted: the authority is the test's own
            "issuer": "Tests",
            "signer": "Signer",
            "algorithm": "Es256",
            "DigitalSourceType": SOURCE_TYPE,
            "agent": "painter",
        }
        assert read_label(content) == read_label(same["image"]["bytes"])
        assert read_signature(same["image"]["bytes"]) is None
        pixels = [np.asarray(Image.open(BytesIO(one["image"]["bytes"]))) for one in (row, same)]
        assert (pixels[0] == pixels[1]).all()
        if image_format == "png":
            assert (pixels[0] == picture(row["seed"])).all()
        assert {**row, "image": 0} == {**same, "image": 0}
    changed = bytearray(content)
    changed[-40] ^= 1
    assert (read_signature(bytes(changed)) or {})["state"] == "Invalid"


def test_a_signed_folder_resumes_verifies_and_is_regenerated_by_its_pixels(
    make_plan: MakePlan, signer: ContentSigner, tmp_path: Path
) -> None:
    plan = make_plan(10, signature=signer.describe())
    assert plan.hash != make_plan(10).hash
    assert SynthesisPlan.from_json(plan.to_json(), plan.captions).hash == plan.hash
    synthesize(plan, Painter(), tmp_path, signer=signer, rank=0, world_size=2, progress=False)
    assert synthesize(plan, Painter(), tmp_path, signer=signer, progress=False).num_shards_drawn == 1
    assert verify_store(tmp_path, progress=False).problems == ()
    row = rows(tmp_path)[3]
    again = redraw_image(tmp_path, row["caption_id"], row["image_index"], Painter())
    assert (again.is_same_file, again.is_signed, again.max_difference) == (False, True, 0)
    bare = estimate_synthesis(make_plan(10), Painter(), tmp_path / "x", batch_size=2).bytes_per_image
    assert (
        estimate_synthesis(plan, Painter(), tmp_path / "y", batch_size=2, signer=signer).bytes_per_image > bare + 1000
    )


def test_a_folder_is_signed_by_one_certificate_or_not_at_all(
    make_plan: MakePlan, signer: ContentSigner, tmp_path: Path
) -> None:
    plan = make_plan(10, signature=signer.describe())
    other = ContentSigner(*write_certificate(tmp_path / "other"))
    for given in (None, other):
        with pytest.raises(InputError, match=r"What signs the images is not what the plan says: .*certificate is"):
            synthesize(plan, Painter(), tmp_path / "store", signer=given, progress=False)
    with pytest.raises(InputError, match="What signs the images is not what the plan says"):
        synthesize(make_plan(10), Painter(), tmp_path / "store", signer=signer, progress=False)
    assert not (tmp_path / "store").exists()


def test_an_authority_that_falls_silent_stops_the_run_with_a_sentence(
    make_plan: MakePlan, pem: tuple[Path, Path], tmp_path: Path
) -> None:
    signer = ContentSigner(*pem)
    signer._timestamp_url = "http://127.0.0.1:9/"
    with pytest.raises(InputError, match=r"The image '.*jpg' cannot be signed .* what is finished is kept"):
        synthesize(make_plan(3, signature=signer.describe()), Painter(), tmp_path, signer=signer, progress=False)
    assert list((tmp_path / "data").iterdir()) == []


def test_what_cannot_sign_is_one_sentence(
    pem: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = pem
    _, other_key = write_certificate(tmp_path)
    (tmp_path / "no.pem").write_text("no")
    for certificate, private_key, said in (
        (tmp_path / "none.pem", key, "none.pem' cannot be read"),
        (tmp_path / "no.pem", key, "'no.pem' and the key 'key.pem' do not sign"),
        (chain, tmp_path / "no.pem", "'chain.pem' and the key 'no.pem' do not sign"),
        (chain, other_key, "do not sign"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            ContentSigner(certificate, private_key)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="do not sign"):
        ContentSigner(chain, key, "http://127.0.0.1:9/")  # no authority answers there
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(InputError, match=r"install stablerep_hf\[c2pa\]"):
        ContentSigner(chain, key)
