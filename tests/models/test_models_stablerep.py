from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from tiny_stablerep import VISION, pixels, tiny_model
from torch import nn
from torch.nn.functional import linear, relu
from torch.nn.parallel import DistributedDataParallel
from transformers import ViTModel

from stablerep_hf.losses import ImageTextContrastiveLoss, MultiPositiveContrastiveLoss
from stablerep_hf.models import StableRepConfig, StableRepModel, encode_images

SIBLINGS = torch.arange(3).repeat(4)  # 4 captions x 3 images


def texts() -> torch.Tensor:
    tokens = torch.randint(1, 97, (4, 8), generator=torch.Generator().manual_seed(3))
    tokens[:, -1] = 99
    return tokens


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_outputs_and_their_shapes():
    outputs = tiny_model(text=True)(pixels(12), texts(), sibling_index=SIBLINGS)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "last_hidden_state": (12, 5, 32),
        "pooler_output": (12, 32),
        "image_embeds": (12, 16),
        "image_text_embeds": (12, 12),
        "text_embeds": (4, 12),
        "logit_scale": (),
    }
    assert torch.equal(outputs.pooler_output, outputs.last_hidden_state[:, 0])
    assert outputs.logit_scale.item() == pytest.approx(2.6592)
    without_text = tiny_model()(pixels(12), output_hidden_states=True, output_attentions=True)
    assert without_text.text_embeds is without_text.image_text_embeds is without_text.logit_scale is None
    assert len(without_text.hidden_states) == 3
    assert len(tiny_model()(pixels(2), return_dict=False)) == 3


def test_encoder_is_the_stock_vit():
    model = tiny_model().eval()
    stock = ViTModel(model.config.vision_config, add_pooling_layer=False).eval()
    stock.load_state_dict(model.vision_model.state_dict())
    assert torch.equal(model(pixels(3)).last_hidden_state, stock(pixels(3)).last_hidden_state)


def test_head_is_the_release_s_called_once_a_sibling():
    model = tiny_model()
    head, features = model.projection_head, torch.randn(12, 32)
    norms = [nn.BatchNorm1d(40), nn.BatchNorm1d(40)]
    expected = torch.zeros(12, 16)
    for k in range(3):
        hidden = relu(norms[0](linear(features[k == SIBLINGS], head.fc1.weight, head.fc1.bias)))
        hidden = relu(norms[1](linear(hidden, head.fc2.weight, head.fc2.bias)))
        expected[k == SIBLINGS] = linear(hidden, head.fc3.weight, head.fc3.bias)
    torch.testing.assert_close(model.project(features, SIBLINGS), expected)
    for ours, reference in zip((head.norm1, head.norm2), norms, strict=True):
        torch.testing.assert_close(dict(ours.state_dict()), dict(reference.state_dict()))


def test_head_norms_differ_as_said():
    other_siblings = SIBLINGS.sort().values
    for head_norm in ("batch_per_sibling", "batch", "layer"):
        model = tiny_model(head_norm=head_norm)
        features = torch.randn(12, 32, generator=torch.Generator().manual_seed(5))
        one, other = model.project(features, SIBLINGS), model.project(features, other_siblings)
        assert torch.allclose(one, other, atol=1e-6) == (head_norm != "batch_per_sibling")
        alone = model.project(features[:2], SIBLINGS[:2])
        assert torch.allclose(alone, one[:2], atol=1e-6) == (head_norm == "layer")
        assert all(name in dict(model.projection_head.named_children()) for name in ("norm1", "norm2"))


def test_head_on_the_whole_batch_apart_from_the_backbone():
    """What training in chunks rests on: features by chunk, head once, the same embeddings."""
    whole, chunked = tiny_model(), tiny_model()
    features = torch.cat([encode_images(chunked.vision_model, chunk).pooler_output for chunk in pixels(12).split(5)])
    torch.testing.assert_close(
        chunked.project(features, SIBLINGS), whole(pixels(12), sibling_index=SIBLINGS).image_embeds
    )


@pytest.mark.parametrize("text", [False, True])
def test_every_weight_gets_a_gradient(text):
    """DistributedDataParallel waits for all of them."""
    model = tiny_model(text)
    outputs = model(pixels(12), texts() if text else None, sibling_index=SIBLINGS)
    loss = MultiPositiveContrastiveLoss()(outputs.image_embeds, torch.arange(4).repeat_interleave(3))
    if text:
        ids = torch.arange(4)
        loss = loss + ImageTextContrastiveLoss()(
            outputs.image_text_embeds, outputs.text_embeds, ids.repeat_interleave(3), ids, outputs.logit_scale
        )
    loss.backward()
    assert [name for name, grad in gradients(model).items() if grad is None or not grad.isfinite().all()] == []


def test_text_is_read_at_its_first_end_token_whatever_the_padding():
    model = tiny_model(text=True).eval()
    text = torch.tensor([[98, 5, 6, 99]])
    expected = model.get_text_features(text).pooler_output
    hidden = model.text_model(text).last_hidden_state
    torch.testing.assert_close(expected, model.text_projection(hidden[:, 3]))
    for padding in (0, 99):  # CLIP's own tokenizer pads with its end token
        padded = torch.cat([text, torch.full((1, 3), padding)], dim=1)
        torch.testing.assert_close(model.get_text_features(padded).pooler_output, expected)
        mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
        torch.testing.assert_close(model.get_text_features(padded, mask).pooler_output, expected)


def test_text_without_an_end_token_is_read_at_its_last_token():
    """Stock CLIPTextModel reads it at position 0: one feature for all texts."""
    model = tiny_model(text=True).eval()
    long = torch.tensor([[98, 5, 6, 7], [98, 8, 9, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    hidden = model.text_model(long, attention_mask=mask).last_hidden_state
    expected = model.text_projection(torch.stack([hidden[0, 3], hidden[1, 2]]))
    torch.testing.assert_close(model.get_text_features(long, mask).pooler_output, expected)
    torch.testing.assert_close(model.get_text_features(long).pooler_output[0], expected[0])
    stock = model.text_model(long, attention_mask=mask).pooler_output
    assert torch.equal(stock[0], stock[1])


def test_features_of_one_space():
    model = tiny_model(text=True).eval()
    outputs = model(pixels(4), texts())
    torch.testing.assert_close(model.get_image_features(pixels(4)).pooler_output, outputs.image_text_embeds)
    torch.testing.assert_close(model.get_text_features(texts()).pooler_output, outputs.text_embeds)
    image_only = tiny_model().eval()
    assert torch.equal(image_only.get_image_features(pixels(4)).pooler_output, image_only(pixels(4)).pooler_output)
    with pytest.raises(ValueError, match="no text tower"):
        image_only(pixels(4), texts())


def test_gradient_checkpointing_changes_no_gradient():
    plain, saving = tiny_model(text=True), tiny_model(text=True)
    saving.gradient_checkpointing_enable()
    recomputed = []
    saving.vision_model.layers[0].attention.register_forward_hook(lambda *_: recomputed.append(1))
    for model in (plain, saving):
        outputs = model(pixels(12), texts(), sibling_index=SIBLINGS)
        (outputs.image_embeds.square().sum() + outputs.text_embeds.square().sum()).backward()
    assert len(recomputed) == 2
    torch.testing.assert_close(
        {n: g for n, g in gradients(saving).items() if g is not None},
        {n: g for n, g in gradients(plain).items() if g is not None},
    )


def test_attention_implementations_agree():
    sdpa, eager = tiny_model(text=True).eval(), tiny_model(text=True).eval()
    eager.set_attn_implementation("eager")
    assert sdpa.config.vision_config._attn_implementation == sdpa.config.text_config._attn_implementation == "sdpa"
    assert eager.vision_model.config._attn_implementation == eager.text_model.config._attn_implementation == "eager"
    expected, actual = sdpa(pixels(3), texts()), eager(pixels(3), texts())
    torch.testing.assert_close(actual.pooler_output, expected.pooler_output)
    torch.testing.assert_close(actual.text_embeds, expected.text_embeds)


def test_other_resolutions_by_interpolation():
    model = tiny_model().eval()
    larger = torch.randn(2, 3, 32, 24)
    assert model(larger, interpolate_pos_encoding=True).last_hidden_state.shape == (2, 13, 32)
    with pytest.raises(ValueError, match="doesn't match model"):
        model(larger)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_in_half_precision_autocast_stays_close(dtype):
    exact, half = tiny_model(), tiny_model()
    expected = exact(pixels(12), sibling_index=SIBLINGS).image_embeds
    with torch.autocast("cpu", dtype=dtype):
        actual = half(pixels(12), sibling_index=SIBLINGS).image_embeds
    assert actual.dtype == dtype
    assert torch.nn.functional.cosine_similarity(actual.float(), expected).min() > 0.99
    assert half.projection_head.norm1.running_var.dtype == torch.float32


def test_a_step_in_float16_with_a_scaler_stays_close():
    """What Trainer does with `fp16` on a GPU."""
    grads = []
    for half in (False, True):
        model = tiny_model()
        scaler = torch.amp.GradScaler("cpu", enabled=half, init_scale=16.0)  # gradients here are large
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with torch.autocast("cpu", dtype=torch.float16, enabled=half):
            embeds = model(pixels(12), sibling_index=SIBLINGS, forward_chunk_size=5).image_embeds
            loss = MultiPositiveContrastiveLoss()(embeds, torch.arange(4).repeat_interleave(3))
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        grads.append(torch.cat([grad.flatten() for grad in gradients(model).values()]))
    assert torch.nn.functional.cosine_similarity(*grads, dim=0) > 0.999
    assert 0.98 < float(grads[1].norm() / grads[0].norm()) < 1.02


def test_trainer_does_not_scale_its_losses():
    assert StableRepModel.accepts_loss_kwargs is False


def train_step(own_captions, forward_chunk_size=None):
    """Losses, gradients and running statistics of a step on images and texts of some captions."""
    model = tiny_model(text=True).double()
    ids = torch.arange(4)
    captions = ids[own_captions]
    images = torch.isin(ids.repeat_interleave(3), captions)
    called = DistributedDataParallel(model) if dist.is_initialized() else model
    outputs = called(
        pixels(12)[images],
        texts()[own_captions],
        sibling_index=SIBLINGS[images],
        forward_chunk_size=forward_chunk_size,
    )
    caption_ids = ids.repeat_interleave(3)[images]
    image_loss = MultiPositiveContrastiveLoss()(outputs.image_embeds, caption_ids)
    text_loss = ImageTextContrastiveLoss()(
        outputs.image_text_embeds, outputs.text_embeds, caption_ids, captions, outputs.logit_scale
    )
    (image_loss + text_loss).backward()
    return image_loss.detach(), text_loss.detach(), gradients(model), dict(model.named_buffers())


@pytest.mark.parametrize("size", [1, 5, 12, 100])
def test_chunks_give_the_gradients_of_the_whole_batch(size):
    torch.testing.assert_close(train_step(slice(None), size), train_step(slice(None)))


def test_chunks_of_texts_keep_their_attention_mask():
    model, tokens = tiny_model(text=True), texts()
    mask = torch.ones_like(tokens)
    mask[1, 4:], tokens[1, 4:], tokens[1, 3] = 0, 0, 99
    whole, chunked = (model(pixels(4), tokens, mask, forward_chunk_size=size) for size in (None, 3))
    torch.testing.assert_close(chunked.text_embeds, whole.text_embeds)


def test_the_backbone_meets_one_chunk_at_a_time_and_again_in_the_backward():
    model, met = tiny_model(), []
    model.vision_model.layers[0].register_forward_hook(lambda layer, inputs, outputs: met.append(len(inputs[0])))
    outputs = model(pixels(12), sibling_index=SIBLINGS, forward_chunk_size=5)
    assert (met, outputs.last_hidden_state) == ([4, 4, 4], None)  # as even as it goes
    outputs.image_embeds.square().sum().backward()
    assert met == [4, 4, 4, 4, 4, 4]
    met.clear()
    with torch.no_grad():
        model.eval()(pixels(12), forward_chunk_size=5)
    assert met == [4, 4, 4]


def test_chunks_in_bfloat16_sum_their_gradients_in_float32():
    """Autocast keeps one bfloat16 copy of a weight; all chunks summed in that would be 1.0 % off instead of 0.2 %."""
    vision = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    torch.manual_seed(0)
    model = StableRepModel(
        StableRepConfig(vision_config={**VISION, **vision}, projection_hidden_dim=40, projection_dim=16)
    )
    images = pixels(64).add_(pixels(16, seed=2).repeat_interleave(4, 0))
    grads = []
    for size in (None, 1):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            embeds = model(images, sibling_index=torch.arange(4).repeat(16), forward_chunk_size=size).image_embeds
            MultiPositiveContrastiveLoss()(embeds, torch.arange(16).repeat_interleave(4)).backward()
        grads.append({name: grad.clone() for name, grad in gradients(model.vision_model).items()})
    whole, chunked = grads
    errors = [
        float((chunked[name] - whole[name]).norm() / whole[name].norm())
        for name in whole
        if "k_proj.bias" not in name  # has no gradient: attention is blind to it
    ]
    assert sorted(errors)[len(errors) // 2] < 0.005


def train_step_on_rank(cut, size):
    return train_step([slice(0, cut), slice(cut, None)][dist.get_rank()], size)


@pytest.mark.distributed
@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("cut", [2, 3])
def test_a_step_on_two_ranks_equals_one_on_one(run_on_gloo, cut, size):
    expected = train_step(slice(None))
    for actual in run_on_gloo(train_step_on_rank, cut, size):
        torch.testing.assert_close(actual, expected)
