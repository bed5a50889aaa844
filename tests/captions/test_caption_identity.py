from __future__ import annotations

import json
import subprocess
import sys
from hashlib import blake2b

import numpy as np

from stablerep_hf.captions import CaptionSet, caption_id, normalize_caption


def test_normalizing_composes_letters_and_collapses_every_white_space() -> None:
    assert normalize_caption("  a\tcafe\u0301\u00a0by\r\nthe   sea\u2028") == "a café by the sea"
    assert normalize_caption("\u3000\n") == ""
    assert normalize_caption("A Dog!") == "A Dog!"  # case and punctuation change what is drawn


def test_caption_id_is_the_documented_hash() -> None:
    digest = blake2b("a café".encode(), digest_size=8).digest()
    assert caption_id(" a  cafe\u0301 ") == int.from_bytes(digest, "big") >> 1
    # Ids stand in published data sets: they may never change.
    assert caption_id("a photo of a cat") == 3911221920095594919
    assert caption_id("ﬁve ½ cups, №3, ² ⅷ ｆｕｌｌ") == 122675349274856235  # NFC keeps what NFKC would replace


def test_what_cannot_be_seen_is_no_caption() -> None:
    for text in ("\u200b", " \u200b\u2060\ufeff\n", "\u2800\u3164", "\x00\x7f", "\ufe0f", "\U000e0041"):
        assert normalize_caption(text) == "", ascii(text)
    for text in ("a\u200bb", "\N{HEAVY BLACK HEART}\ufe0f", "\u200d\N{DOG}", "."):
        assert normalize_caption(text) == text, ascii(text)
    captions = CaptionSet.from_texts(["a", "\u200b\u200b", "\u200b \u200b"])
    assert (captions.captions, captions.num_empty) == (["a"], 2)


def test_caption_ids_fit_int64_and_do_not_depend_on_the_process() -> None:
    texts = [f"caption {i}" for i in range(2000)]
    ids = [caption_id(text) for text in texts]
    assert len(set(ids)) == len(ids)
    assert min(ids) >= 0
    assert np.array(ids).dtype == np.int64
    program = (
        "import sys, json; from stablerep_hf.captions import caption_id;"
        "print(json.dumps([caption_id(text) for text in json.load(sys.stdin)]))"
    )
    command = [sys.executable, "-c", program]
    there = subprocess.run(command, input=json.dumps(texts[:50]), capture_output=True, text=True)
    assert json.loads(there.stdout) == ids[:50]


def test_the_room_needs_no_torch() -> None:
    program = (
        "import sys; import stablerep_hf.captions as c; c.read_captions; c.CaptionSet; c.caption_id;"
        "sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
