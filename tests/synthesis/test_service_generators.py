"""Generators that are not here: a server that fails in every way, a budget, a kill, and nothing paid for twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from painting_server import PaintingServer, painted, serving
from PIL import Image
from waiting import wait_until

from stablerep_hf.captions import CaptionSet
from stablerep_hf.errors import InputError
from stablerep_hf.hub import dataset_facts, render_dataset_card
from stablerep_hf.services import KEY, FailedRequest, Patience, Service, _seconds
from stablerep_hf.synthesis import (
    GenerationSettings,
    ServiceGenerator,
    SynthesisPlan,
    estimate_synthesis,
    generator_of,
    plan_generation,
    redraw_image,
    synthesize,
    verify_store,
)

CAPTIONS = CaptionSet.from_texts(f"thing {i}" for i in range(6))


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)


def make(server: PaintingServer, *, attempts: int = 6, **settings: Any) -> ServiceGenerator:
    generator = ServiceGenerator(server.address, **settings)
    quick = Patience(attempts=attempts, first_wait=0.01)
    generator.service.patience = quick
    return generator


def make_plan(generator: ServiceGenerator, **settings: Any) -> SynthesisPlan:
    settings = {"images_per_caption": 2, "captions_per_shard": 3, "image_format": "png", **settings}
    return SynthesisPlan(CAPTIONS, generator, **settings)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "data").iterdir()) for row in pq.read_table(path).to_pylist()]


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)).convert("RGB"))


def test_a_server_that_fails_in_every_way_draws_every_image_once(tmp_path: Path) -> None:
    faults = ("429", "500", "cut", "wrong", "garbled", "drop", None)

    def fault(request: dict[str, Any], number: int) -> Any:
        return faults[(request["seed"] + number) % len(faults)]

    with serving(fault) as server:
        generator = make(server, concurrency=4, guidance_scale=3.0, height=16, width=24, attempts=10)
        plan = make_plan(generator)
        assert plan.generator == {
            "name": "painter-1", "revision": None, "service": "openai", "guidance_scale": 3.0,
            "num_inference_steps": None, "negative_prompt": None, "height": 16, "width": 24, "redrawable": True,
            "license": None,
        }  # fmt: skip
        synthesize(plan, generator, tmp_path, progress=False)
        assert set(server.answered.values()) == {1} and len(server.answered) == 12
        assert server.most_at_once <= 4
        sent = server.requests[0]
        assert {**sent, "prompt": "", "seed": 0} == {
            "model": "painter-1", "prompt": "", "n": 1, "seed": 0, "guidance_scale": 3.0, "size": "24x16",
            "response_format": "b64_json",
        }  # fmt: skip
        rows = rows_of(tmp_path)
        assert len(rows) == 12 and all(row["redrawable"] for row in rows)
        for row in rows:
            assert (pixels(row["image"]["bytes"]) == pixels(painted(row["seed"] % 2**31))).all()
        assert verify_store(tmp_path, progress=False).is_sound
        # Every request that may be billed is on the list; what was answered is gone, as it is in the shards.
        may_be_billed = sum(
            faults[(request["seed"] + number) % len(faults)] in ("cut", "wrong", "garbled", "drop", None)
            for name, asked in server.asked.items()
            for request in [next(r for r in server.requests if json_of(r) == name)]
            for number in range(asked)
        )
        answers = tmp_path / "provenance/answers"
        listed, refused = (
            path.read_text().split() if path.exists() else []
            for path in (answers / "requests.log", answers / "refused.log")
        )
        assert len(listed) - len(refused) == may_be_billed == generator.num_asked
        assert not list((tmp_path / "provenance/answers").glob("shard-*"))
        again = make(server)
        again.height, again.width, again.guidance_scale = 16, 24, 3.0
        asked = sum(server.asked.values())
        assert synthesize(plan, again, tmp_path, progress=False).num_drawn == 0
        assert sum(server.asked.values()) == asked


def json_of(request: dict[str, Any]) -> str:
    return json.dumps(request, sort_keys=True)


def test_rate_limits_hold_for_all_requests() -> None:
    patience = Patience(first_wait=0.01)
    moments: list[float] = []

    def limited() -> None:
        moments.append(time.monotonic())
        if len(moments) == 1:
            raise FailedRequest("slow down", may_be_billed=False, retry_after=0.4)

    one = threading.Thread(target=patience.call, args=(limited,))
    one.start()
    while patience._not_before == 0:
        time.sleep(0.001)
    patience.call(limited)  # another request, which knows nothing of the first
    one.join()
    first, second, third = moments
    assert min(second, third) - first >= 0.4


def test_a_strict_rate_limit_slows_down_and_ends_nothing() -> None:
    last = [0.0]

    def fault(request: dict[str, Any], number: int) -> Any:
        if (now := time.monotonic()) - last[0] < 0.03:
            return (429, {"error": {"message": "slow down"}}, {"Retry-After": "0.03"})
        last[0] = now
        return None

    with serving(fault) as server:
        assert all(make(server, attempts=1, concurrency=8)(["a"] * 16, list(range(16))))
        assert set(server.answered.values()) == {1} and sum(server.asked.values()) > 16


@pytest.mark.parametrize(
    ("said", "seconds"), [(None, None), ("7", 7), ("-3", 0), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)]
)
def test_what_retry_after_says(said: str | None, seconds: float | None) -> None:
    assert _seconds(said) == seconds


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("500", r"failed 3 times \(.*answered 500: out of paint\): what was answered is kept"),
        ("wrong", "answered what is not an image"),
        ("url", "no address that a server chooses is opened"),
        ((402, {"error": {"message": "Payment required."}}), r"no credit left \(402: Payment required\): add some"),
        ((429, {"error": {"code": "insufficient_quota"}}), "no credit left"),
        ((401, {"error": {"message": "bad key"}}), r"refuses the key in OPENAI_API_KEY \(401: bad key\)"),
        ((400, {"error": {"message": "unknown field seed"}}), "refuses the request .*a seed|a seed: give send_seeds"),
        ((404, {"detail": "no such model"}), r"refuses the request \(404: no such model\)"),
        ((429, {}, {"Retry-After": "86400"}), "asks to wait 86,400 s"),
        ((307, {}, {"Location": "http://169.254.169.254/"}), "refuses the request"),
    ],
)
def test_what_cannot_go_well_is_one_sentence_and_loses_nothing(tmp_path: Path, fault: Any, said: str) -> None:
    broken: set[int] = set()
    with serving(lambda request, number: fault if request["seed"] in broken else None) as server:
        generator = make(server, attempts=3, concurrency=1)
        plan = make_plan(generator)
        broken.add(plan.seed(CAPTIONS.caption_ids.tolist()[4], 1) % 2**31)
        with pytest.raises(InputError, match=said):
            synthesize(plan, generator, tmp_path, progress=False)
        answered = dict(server.answered)
        assert len(answered) >= 9  # the first shard, and what came before the fault
        broken.clear()
        synthesize(plan, make(server), tmp_path, progress=False)
        assert server.repeated == []  # nothing was billed twice
        assert len(rows_of(tmp_path)) == 12


def test_half_of_a_batch_is_lost_and_the_other_half_is_kept(tmp_path: Path) -> None:
    lost = {"on": True}
    with serving(lambda request, number: "drop" if lost["on"] and request["seed"] % 2 else None) as server:
        generator = make(server, attempts=2, concurrency=12)
        plan = make_plan(generator, captions_per_shard=6)
        with pytest.raises(InputError, match="failed 2 times"):
            synthesize(plan, generator, tmp_path, progress=False)
        answered = dict(server.answered)
        assert 0 < len(answered) < 12
        lost["on"] = False
        synthesize(plan, make(server), tmp_path, progress=False)
        assert set(server.answered.values()) == {1} and len(server.answered) == 12


def test_slow_answers_are_waited_for_or_asked_for_again(tmp_path: Path) -> None:
    with serving(lambda request, number: "slow" if number == 0 else None) as server:
        service = Service(server.address, timeout=2, patience=Patience(attempts=3, first_wait=0.01))
        generator = make(server)
        generator.service._service = service  # type: ignore[attr-defined]
        assert generator(["a"], [1])[0] is not None
        assert generator.num_asked == 2  # the first may be billed


def test_withheld_images_are_redrawn_and_not_asked_for_again(tmp_path: Path) -> None:
    withheld: set[int] = set()
    refusal = (400, {"error": {"code": "content_policy_violation", "message": "no"}})
    with serving(lambda request, number: refusal if request["seed"] in withheld else None) as server:
        generator = make(server)
        plan = make_plan(generator)
        withheld |= {plan.seed(number, 0) % 2**31 for number in CAPTIONS.caption_ids.tolist()[:2]}
        assert synthesize(plan, generator, tmp_path, progress=False).num_redrawn == 2
        assert set(server.asked.values()) == {1}


def test_the_budget_stops_cleanly_and_counts_over_runs(tmp_path: Path) -> None:
    with serving() as server:
        for settings, total in (({"max_images": 5}, 5), ({"max_dollars": 0.7, "dollars_per_image": 0.1}, 7)):
            generator = make(server, concurrency=3, **settings)
            plan = make_plan(generator)
            with pytest.raises(InputError, match=f"`max_dollars` is reached after {total} images, so drawing stops"):
                synthesize(plan, generator, tmp_path, progress=False)
            assert sum(server.asked.values()) == total
        assert len(rows_of(tmp_path)) == 6  # a shard that was finished
        synthesize(plan, make(server, max_images=12), tmp_path, progress=False)
        assert set(server.asked.values()) == {1} and len(rows_of(tmp_path)) == 12


@pytest.mark.parametrize("fault", [(402, {"error": "no money"}), (429, {"error": {"type": "insufficient_quota"}})])
def test_without_credit_the_first_refusal_ends_the_run_and_costs_nothing_of_the_budget(
    tmp_path: Path, fault: Any
) -> None:
    is_broke = True
    with serving(lambda request, number: fault if is_broke and request["prompt"] == "thing 4" else None) as server:
        plan = make_plan(make(server))
        with pytest.raises(InputError, match="no credit left"):
            synthesize(plan, make(server, concurrency=1, max_images=12), tmp_path, progress=False)
        assert set(server.asked.values()) == {1}, "nothing is asked for again"
        assert sum(request["prompt"] == "thing 4" for request in server.requests) == 1, "and nothing else is asked for"
        is_broke = False
        synthesize(plan, make(server, max_images=12), tmp_path, progress=False)
        assert server.repeated == [] and set(server.answered.values()) == {1}
        assert len(rows_of(tmp_path)) == 12


@pytest.mark.slow
def test_a_killed_run_asks_again_for_nothing_that_was_answered(tmp_path: Path) -> None:
    """By the server's own count, with a kill -9 while requests are under way, twice."""
    held, waiting, release = {"thing 1"}, [], threading.Event()

    def fault(request: dict[str, Any], number: int) -> Any:
        if request["prompt"] in held:
            waiting.append(request)
            release.wait(60)
            return "drop"
        return None

    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parent), *sys.path]
    script = f"from test_service_generators import run_in_a_process; run_in_a_process({str(tmp_path)!r})"
    with serving(fault) as server:
        environment = {**os.environ, "PAINTER": server.address, "PYTHONPATH": os.pathsep.join(paths)}
        for caption in ("thing 1", "thing 4"):
            held.clear(), held.add(caption), waiting.clear(), release.clear()
            process = subprocess.Popen([sys.executable, "-c", script], env=environment)
            wait_until(lambda: len(waiting) >= 2, process)  # both threads: what came before is on the disk
            process.send_signal(signal.SIGKILL)
            assert process.wait(30) == -signal.SIGKILL
            answered = dict(server.answered)
            release.set()
        held.clear()
        assert len(answered) == 8  # the first shard, and the first caption of the second
        subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)
        assert server.repeated == []
        assert set(server.answered.values()) == {1} and len(server.answered) == 12
        assert len(rows_of(tmp_path)) == 12
        assert verify_store(tmp_path, progress=False).is_sound


def run_in_a_process(folder: str) -> None:
    generator = ServiceGenerator(os.environ["PAINTER"], concurrency=2)
    synthesize(make_plan(generator), generator, folder, batch_size=4, progress=False)


def test_two_runs_of_one_shard_do_not_both_pay(tmp_path: Path) -> None:
    from stablerep_hf.synthesis.answers import keeping

    with serving() as server:
        generator = make(server)
        plan = make_plan(generator)
        (tmp_path / "provenance").mkdir()
        with keeping(make(server), tmp_path, 0), pytest.raises(InputError, match="Another process is writing to"):
            synthesize(plan, generator, tmp_path, progress=False)
        assert not server.asked


def test_without_seeds_rows_say_so_and_nothing_is_redrawn(tmp_path: Path) -> None:
    with serving() as server:
        generator = make(server, send_seeds=False)
        plan = make_plan(generator)
        synthesize(plan, generator, tmp_path, progress=False)
        assert not any("seed" in request for request in server.requests)
        row = rows_of(tmp_path)[0]
        assert row["redrawable"] is False
        card = str(render_dataset_card(dataset_facts(tmp_path, name="x", license="mit")))
        assert "no image can be drawn again" in card
        asked = len(server.requests)
        with pytest.raises(InputError, match="is not redrawable: 'painter-1' was given no seed"):
            redraw_image(tmp_path, row["caption_id"], 0, generator_of(plan, server.address))
        assert len(server.requests) == asked


def test_an_image_is_redrawn_at_the_address_that_the_user_names(tmp_path: Path) -> None:
    with serving() as server:
        generator = make(server)
        plan = make_plan(generator)
        synthesize(plan, generator, tmp_path, progress=False)
        row = rows_of(tmp_path)[3]
        found = generator_of(plan, server.address)
        assert redraw_image(tmp_path, row["caption_id"], row["image_index"], found).is_same_file
        evil = {**plan.generator, "name": server.address, "address": server.address}
        asked = len(server.requests)
        for hostile in (plan, SynthesisPlan(CAPTIONS, evil)):
            with pytest.raises(InputError, match="no data set says where one is"):
                generator_of(hostile)
        assert len(server.requests) == asked


def test_a_key_is_in_the_header_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "sk-secret-123")
    refusal = (403, {"error": {"message": "sk-secret-123 is not welcome"}})
    refuse: list[bool] = []
    with serving(lambda request, number: refusal if refuse else None) as server:
        generator = make(server)
        plan = make_plan(generator)
        synthesize(plan, generator, tmp_path, progress=False)
        assert server.keys == {"Bearer sk-secret-123"}
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"sk-secret" in path.read_bytes()]
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"127.0.0.1" in path.read_bytes()]
        assert "sk-secret" not in repr(generator)
        refuse.append(True)
        with pytest.raises(InputError, match=r"\*\*\* is not welcome"):
            generator(["a"], [1])
    with pytest.raises(InputError, match=r"would be sent to 'http://example.com/v1' unencrypted"):
        Service("http://example.com/v1")


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "https://me:pw@host/v1",
        "https://host/v1?key=1",
        "https://host/v1#x",
        "https://[::1/v1",
        "https://h:x/",
    ],
)
def test_what_is_no_plain_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="is no address of a service") as caught:
        Service(address)
    assert "pw" not in str(caught.value) and "key=1" not in str(caught.value)


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    with serving() as server:
        address = server.address
    for settings in ({}, {"served_model": "painter-1"}):
        with pytest.raises(InputError, match=f"{address} cannot be reached .* check the address"):
            ServiceGenerator(address, **settings)(["a"], [1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scheduler": "DDIMScheduler"}, "scheduler=DDIMScheduler was given for .* a service decides that itself"),
        ({"guidance_interval": [0.1, 1.0]}, "a service decides that itself"),
        ({"lora": "x"}, "a service decides that itself"),
        ({"height": 16}, "give `height` and `width`"),
        ({"concurrency": 0}, "concurrency=0 asks for nothing"),
        ({"max_dollars": 3.0}, "says nothing without a price: give `dollars_per_image`"),
        ({"max_dollars": 0.01, "dollars_per_image": 0.02}, "allow no image"),
        ({"generator": "inference:fal-ai"}, "names no provider and model"),
    ],
)
def test_impossible_settings_send_nothing(settings: dict[str, Any], said: str) -> None:
    with serving() as server, pytest.raises(InputError, match=said):
        ServiceGenerator(**{"generator": server.address, **settings})
    assert not server.requests


def test_settings_find_the_service_and_a_dry_run_pays_nothing(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a dog\na cat\n")
    with serving() as server:
        settings = GenerationSettings(
            generator=server.address, captions=str(tmp_path / "captions.txt"), served_model="painter-2"
        )
        plan, generator = plan_generation(settings)
        assert isinstance(generator, ServiceGenerator) and plan.generator["name"] == "painter-2"
        estimate = estimate_synthesis(plan, generator, tmp_path / "images")
        assert (estimate.num_images, estimate.bytes_per_image) == (8, 0)
        assert not server.requests and not (tmp_path / "images").exists()
    with pytest.raises(InputError, match="max_images=5 was given for 'embedded', which is neither a server"):
        plan_generation(GenerationSettings(max_images=5))


def test_a_provider_of_the_hub_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants
    from huggingface_hub.hf_api import InferenceProviderMapping
    from huggingface_hub.inference._providers import _common

    mapping = InferenceProviderMapping(
        provider="together", hf_model_id="o/m", providerId="m", status="live", task="text-to-image"
    )
    monkeypatch.setitem(_common.HARDCODED_MODEL_INFERENCE_MAPPING, "together", {"o/m": mapping})
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    faults: list[Any] = ["500", "wrong", "drop", (402, {"error": "You have exceeded your monthly included credits"})]
    with serving(lambda request, number: faults[number] if number < 3 else faults[3] if broke else None) as server:
        monkeypatch.setattr(constants, "INFERENCE_PROXY_TEMPLATE", f"{server.address}/{{provider}}")
        broke: list[bool] = []
        generator = ServiceGenerator("inference:together/o/m", height=16, width=16)
        assert generator.describe()["name"] == "o/m" and generator.describe()["service"] == "inference:together"
        generator.service.patience = Patience(attempts=4, first_wait=0.01)
        with pytest.raises(InputError, match=r"inference:together/o/m cannot draw \(.*offline mode is enabled"):
            generator(["a dog"], [7])
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        generator.num_asked = 0
        (image,) = generator(["a dog"], [7])
        assert image is not None and (np.asarray(image) == pixels(painted(7))).all()
        assert server.requests[0]["seed"] == 7 and server.requests[0]["prompt"] == "a dog"
        assert server.keys == {"Bearer hf_secret"}
        assert generator.num_asked == 3
        broke.append(True)
        with pytest.raises(InputError, match="inference:together says that there is no credit left"):
            generator(["a dog"], [7])
