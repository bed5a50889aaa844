import dataclasses
from itertools import pairwise

import pytest

from stablerep_hf.reproduction import Cell, Scale, all_settings, make_claims, read_world
from stablerep_hf.reproduction.cells import OF_IMAGES

EMBEDDED = read_world()


@pytest.fixture(params=["scale", "quick"])
def world(request):
    return dataclasses.replace(EMBEDDED, scale=getattr(EMBEDDED, request.param))


@pytest.fixture
def scale(world):
    return world.scale


def test_what_is_compared_saw_as_many_images(world, scale):
    trained = [setting for setting in all_settings(make_claims(world)) if setting.images is not None]
    assert {(setting.steps, setting.views) for setting in trained} == {(scale.steps, scale.views)}


def test_statements_are_differences_of_what_their_claim_measures(world):
    for claim in make_claims(world):
        for statement in claim.statements:
            assert sum(coefficient for coefficient, _ in statement.terms) == 0
            assert {setting for _, setting in statement.terms} <= set(claim.settings.values())
            assert set(statement.measures) <= set(claim.measures)


def test_settings_that_several_claims_need_are_trained_once():
    claims = make_claims(EMBEDDED)
    listed = sum(len(claim.settings) for claim in claims)
    assert [claim.number for claim in claims] == [1, 2, 3, 4, 5, 6, 8]
    assert len(all_settings(claims)) == 41 < listed


def test_budgets_are_equal_where_a_claim_says_so(world, scale):
    images_per_caption, long_tail = make_claims(world)[2], make_claims(world)[4]
    by_budget = [setting.images for label, setting in images_per_caption.settings.items() if "a caption" in label]
    assert {images.captions * images.images_per_caption for images in by_budget} == {scale.captions}
    assert [images.images_per_caption for images in by_budget] == [1, 2, 4, 8]
    natural, balanced = (setting.images for setting in long_tail.settings.values())
    assert balanced == dataclasses.replace(natural, balanced=True)


def test_every_batch_can_be_filled(world):
    for setting in all_settings(make_claims(world)):
        if setting.images is not None:
            per_caption = 2 if setting.objective in OF_IMAGES else setting.images.images_per_caption
            groups = setting.images.captions * (
                setting.images.images_per_caption if setting.objective in OF_IMAGES else 1
            )
            assert setting.views % per_caption == 0
            assert setting.views // per_caption <= groups


def test_a_record_is_found_by_all_that_a_result_depends_on():
    scale = Scale()
    setting = scale.train("stablerep", 328, 4)
    cell = Cell(setting=setting, seed=0)
    others = [
        Cell(setting=setting, seed=1),
        Cell(setting=scale.train("simclr", 328, 4), seed=0),
        Cell(setting=scale.train("stablerep", 328, 4, guidance_scale=3.0), seed=0),
        Cell(setting=dataclasses.replace(setting, steps=124), seed=0),
    ]
    keys = [
        cell.key({"generator": "a"}),
        cell.key({"generator": "b"}),
        *(other.key({"generator": "a"}) for other in others),
    ]
    assert len(set(keys)) == len(keys)
    assert cell.key({"generator": "a"}) == Cell(setting=scale.train("stablerep", 328, 4), seed=0).key(
        {"generator": "a"}
    )


def test_guidance_scales_rise_and_hold_those_that_are_judged(scale):
    assert all(one < other for one, other in pairwise(scale.guidance_scales))
    assert {1.0, 2.0, 8.0} <= set(scale.guidance_scales)


def test_guidance_in_an_interval_is_compared_with_guidance_everywhere():
    claim = make_claims(EMBEDDED)[-1]
    constant = {one.images for one in claim.settings.values() if one.images.guidance_interval is None}
    middle = {one.images for one in claim.settings.values()} - constant
    assert {dataclasses.replace(images, guidance_interval=None) for images in middle} == constant
    for images in constant:  # records that were made before there was an interval keep their names
        cell = Cell(setting=next(one for one in claim.settings.values() if one.images == images), seed=0)
        assert "guidance_interval" not in str([images.describe(), cell.describe()])
    assert all(str(images.guidance_interval) in str(images.describe()) for images in middle)
