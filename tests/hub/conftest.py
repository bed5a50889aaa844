"""Facts with unusual numbers, so that a number in a card can be traced."""

from __future__ import annotations

import pytest

from stablerep_hf.evaluation import EvaluationResult
from stablerep_hf.hub import DatasetFacts, LicensedPart, ModelFacts, TrainingData

GENERATOR = {
    "name": "/home/somebody/models/small-generator",
    "revision": "c0ffee",
    "scheduler": "DDIMScheduler",
    "num_inference_steps": 37,
    "guidance_scale": 2.375,
    "negative_prompt": None,
    "height": 48,
    "width": 48,
}


def make_result(encoder: str, protocol: str, metric: str, value: float) -> EvaluationResult:
    return EvaluationResult(
        encoder=encoder,
        protocol=protocol,
        metric=metric,
        value=value,
        low=value - 0.0213,
        high=value + 0.0227,
        interval="bootstrap over test groups",
        n=1783,
        dataset="real pictograms",
        revision="beef",
        split="held_out_concepts",
        seeds=(31,),
        chance=0.2468,
        settings={"k": 19} if protocol == "knn" else {"c": 0.013, "validation_fraction": 0.21},
    )


@pytest.fixture
def model_facts() -> ModelFacts:
    return ModelFacts(
        name="StableRep on pictograms",
        license="cc-by-4.0",
        objective="stablerep",
        architecture={"model_type": "vit", "hidden_size": 136, "parameters": 1_234_567, "image_mean": [0.485, 0.456]},
        data=TrainingData(name="drawn", num_captions=321, num_images=1284, revision="deadbeef", generator=GENERATOR),
        training={"learning_rate": 0.000325, "max_steps": 417, "fp16": False, "warmup_steps": None},
        hardware="CPU",
        training_seconds=143.6,
        results=(
            make_result("StableRep on pictograms", "knn", "accuracy", 0.5432),
            make_result("StableRep on pictograms", "linear_probe", "accuracy", 0.5678),
            make_result("untrained", "knn", "accuracy", 0.4111),
        ),
        limits=("Drawings, not photos.",),
        licensed_parts=(
            LicensedPart(
                name="Twemoji",
                role="pictures the generator learned from",
                license="CC BY 4.0",
                url="https://github.com/jdecked/twemoji",
                attribution="Graphics by Twitter and contributors.",
            ),
            LicensedPart(name="the captions", role="prompts", license="MIT"),
        ),
        versions={"torch": "2.14.1"},
        location="somebody/small-stablerep",
    )


@pytest.fixture
def dataset_facts_by_hand() -> DatasetFacts:
    return DatasetFacts(
        name="Drawn pictograms",
        license="cc-by-4.0",
        num_captions=319,
        num_images=1276,
        num_bytes=7_654_321,
        plan={
            "plan_version": 1,
            "captions": {"number": 321, "digest": "facade"},
            "generator": GENERATOR,
            "images_per_caption": 4,
            "prompt_templates": ["{caption}", "{caption}, flat style"],
            "base_seed": 29,
            "image_format": "jpeg",
            "captions_per_shard": 256,
        },
        revision="feed",
        num_redrawn=3,
        num_failed_captions=2,
        seconds=4321.0,
        columns={"image": "Image", "caption_id": "int64"},
        grid="grid.png",
        language=("en",),
        limits=("Small pictures.",),
        licensed_parts=(LicensedPart(name="the captions", role="prompts", license="MIT"),),
        versions={"diffusers": "0.42.1"},
    )
