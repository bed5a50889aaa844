"""Fine-tuning: what is trained, how fast, on what weights; that interruption and processes change nothing."""

import datasets
import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image
from stranger import run_as_stranger
from test_stablerep_trainer import StopAfter, largest_difference, weights
from tiny_stablerep import pixels, tiny_config
from training_data import spoiled
from transformers import TrainerCallback, set_seed

from stablerep_hf.errors import InputError
from stablerep_hf.models import StableRepForImageClassification, StableRepModel, export_encoder
from stablerep_hf.training import (
    ClassifierProbe,
    FineTuningArguments,
    FineTuningTrainer,
    lora_config,
    save_adapter,
)
from stablerep_hf.training.checkpoints import latest_checkpoint
from stablerep_hf.training.fine_tuning import classes_of, targets_of

NAMES = ["red", "green", "blue"]


def labelled(multi_label=False):
    """48 noisy pictures, four a thing; of thing t the channel t modulo 3 is bright, or those of the bits of t."""
    rng, rows = np.random.default_rng(0), []
    for thing in np.repeat(np.arange(12), 4):
        bright = [bool(thing >> bit & 1) if multi_label else thing % 3 == bit for bit in range(3)]
        pixels = rng.integers(0, 100, (20, 20, 3)) + 120 * np.array(bright)
        names = [name for name, is_bright in zip(NAMES, bright, strict=True) if is_bright]
        label = names if multi_label else int(thing % 3)
        rows.append({"image": Image.fromarray(pixels.astype(np.uint8)), "label": label})
    data = datasets.Dataset.from_list(rows)
    return data if multi_label else data.cast_column("label", datasets.ClassLabel(names=NAMES))


def make_encoder():
    set_seed(0)
    return StableRepModel(tiny_config())


def make_model(multi_label=False):
    return StableRepForImageClassification.from_encoder(make_encoder().vision_model, NAMES, multi_label=multi_label)


def adapted(**settings):
    model = make_model()
    return get_peft_model(model, lora_config(model, rank=2, **settings))


def make_arguments(folder, **settings):
    defaults = {
        "images_per_batch": 16, "learning_rate": 1e-2, "max_steps": 6, "logging_steps": 2, "save_strategy": "no",
        "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    return FineTuningArguments(output_dir=str(folder), **(defaults | settings))


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture(scope="module")
def data():
    return labelled()


@pytest.mark.parametrize("make", [make_model, adapted, lambda: adapted(dora=True, adapter_targets="all")])
def test_it_learns_the_classes(data, tmp_path, make):
    trainer = FineTuningTrainer(make(), make_arguments(tmp_path, max_steps=30), data)
    trainer.train()
    assert losses(trainer)[0] < 1.2  # it starts at ln 3: no class is preferred
    assert losses(trainer)[-1] < 0.8
    assert ClassifierProbe(data)(trainer.model)["accuracy"] > 0.6


def test_several_labels_an_image(tmp_path):
    data = labelled(multi_label=True)
    assert classes_of(data, "label") == (sorted(NAMES), True)
    trainer = FineTuningTrainer(make_model(True), make_arguments(tmp_path, max_steps=30, balance_classes=True), data)
    trainer.train()
    assert ClassifierProbe(data, metric="11_point_map")(trainer.model)["11_point_map"] > 0.7
    targets = targets_of(data, "label", NAMES)
    assert targets[4 * 5].tolist() == [1.0, 0.0, 1.0]  # thing 5
    present = targets.sum(0)
    torch.testing.assert_close(trainer.class_weights, (48 - present) / present)


def test_a_frozen_encoder_stays_as_it_was(data, tmp_path):
    model = make_model()
    model.vision_model.requires_grad_(False)
    before = weights(model)
    FineTuningTrainer(model, make_arguments(tmp_path), data).train()
    after = weights(model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "classifier.weight",
        "classifier.bias",
    }


def test_each_layer_learns_at_its_rate(data, tmp_path):
    trainer = FineTuningTrainer(make_model(), make_arguments(tmp_path, layer_decay=0.5, weight_decay=0.1), data)
    rates = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in trainer.create_optimizer().param_groups
        for parameter in group["params"]
    }
    model = trainer.model
    assert len(rates) == sum(1 for _ in model.parameters())
    tower = model.vision_model  # two layers
    assert rates[id(model.classifier.weight)] == (1e-2, 0.1)
    assert rates[id(model.classifier.bias)] == (1e-2, 0.0)
    assert rates[id(tower.layernorm.weight)] == (1e-2, 0.0)
    assert rates[id(tower.layers[1].mlp.fc1.weight)] == (5e-3, 0.1)
    assert rates[id(tower.layers[0].mlp.fc1.weight)] == (2.5e-3, 0.1)
    assert rates[id(tower.embeddings.patch_embeddings.projection.weight)] == (1.25e-3, 0.1)
    adapters = FineTuningTrainer(adapted(), make_arguments(tmp_path, layer_decay=0.5), data)
    assert {group["lr"] for group in adapters.create_optimizer().param_groups} == {1e-2}


def test_the_learning_rate_follows_what_is_trained(data, tmp_path):
    frozen = make_model()
    frozen.vision_model.requires_grad_(False)
    for model, rate in ((make_model(), 5e-4), (frozen, 1e-2), (adapted(), 2e-3)):
        trainer = FineTuningTrainer(model, make_arguments(tmp_path, learning_rate=None), data)
        assert max(group["lr"] for group in trainer.create_optimizer().param_groups) == pytest.approx(rate)


def test_rare_classes_are_weighed_up_and_labels_smoothed(data, tmp_path):
    few = data.select([0, 1, 2, 3, 4, 8])  # thing 0 four times, 1 and 2 once
    settings = {"balance_classes": True, "label_smoothing_factor": 0.1, "images_per_batch": 6}
    trainer = FineTuningTrainer(make_model(), make_arguments(tmp_path, **settings), few)
    torch.testing.assert_close(trainer.class_weights, torch.tensor([6 / 12, 6 / 3, 6 / 3]))
    batch = next(iter(trainer.get_train_dataloader()))
    torch.nn.init.normal_(trainer.model.classifier.weight)
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    log_probabilities = outputs.logits.log_softmax(1)
    by_hand = 0.0
    for row, target in enumerate(trainer.targets[batch["caption_ids"]].tolist()):
        for index in range(3):
            share = 0.1 / 3 + (0.9 if index == target else 0.0)
            by_hand -= share * trainer.class_weights[index].item() * log_probabilities[row, index].item() / 6
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("make", [make_model, adapted])
def test_resume_goes_on_bit_for_bit(data, tmp_path, make):
    settings = {"save_strategy": "steps", "save_steps": 2, "mixup": 0.8, "cutmix": 1.0}
    whole = FineTuningTrainer(make(), make_arguments(tmp_path / "whole", **settings), data)
    whole.train()
    with pytest.raises(RuntimeError, match="cut off"):
        FineTuningTrainer(make(), make_arguments(tmp_path / "cut", **settings), data, callbacks=[StopAfter(4)]).train()
    set_seed(99)  # a new process starts elsewhere
    resumed = FineTuningTrainer(make(), make_arguments(tmp_path / "cut", **settings), data)
    resumed.train(resume_from_checkpoint=latest_checkpoint(tmp_path / "cut"))
    assert largest_difference(weights(whole.model), weights(resumed.model)) == 0.0
    assert largest_difference(weights(whole.model), weights(make())) > 1e-4


def test_accumulated_batches_are_those_of_their_epoch_also_after_a_resume(data, tmp_path):
    # three batches an epoch, two a step: two steps an epoch, the second of one batch
    settings = {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 1, "max_steps": 5}
    epochs = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            epochs.append(whole.batches.epoch)

    whole = FineTuningTrainer(make_model(), make_arguments(tmp_path, **settings), data, callbacks=[Watch()])
    whole.train()
    assert epochs == [0, 0, 1, 1, 2]
    for step in (1, 3):
        resumed = FineTuningTrainer(make_model(), make_arguments(tmp_path, **settings), data)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert largest_difference(weights(whole.model), weights(resumed.model)) == 0.0


@pytest.mark.parametrize("bad", [0, 1])
def test_any_accumulated_loss_that_is_no_number_stops_it(data, tmp_path, bad):
    settings = {"gradient_accumulation_steps": 2, "max_steps": 1, "max_grad_norm": 0.0}
    trainer = FineTuningTrainer(make_model(), make_arguments(tmp_path, **settings), data)
    loss_of, calls = trainer._loss, []

    def poisoned(*inputs):
        calls.append(1)
        return loss_of(*inputs) * (torch.nan if len(calls) == bad + 1 else 1.0)

    trainer._loss = poisoned
    with pytest.raises(InputError, match="loss is nan at step 1"):
        trainer.train()
    assert all(value.isfinite().all() for value in weights(trainer.model).values())


def train_with_a_rank_that_diverges(folder):
    trainer = FineTuningTrainer(make_model(), make_arguments(folder, max_steps=3), labelled())
    loss_of = trainer._loss
    trainer._loss = lambda *inputs: loss_of(*inputs) * (torch.nan if trainer.args.process_index else 1.0)
    with pytest.raises(InputError, match="loss is nan at step 1"):
        trainer.train()


@pytest.mark.distributed
@pytest.mark.slow
def test_a_loss_that_is_no_number_on_one_process_stops_all(run_on_gloo, tmp_path):
    run_on_gloo(train_with_a_rank_that_diverges, tmp_path, fresh=True)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_batch_without_a_good_image_has_a_loss_of_0(tmp_path, multi_label):
    data = spoiled(labelled(multi_label), [3])
    arguments = make_arguments(tmp_path, images_per_batch=1, max_steps=48, max_bad_images=1, logging_steps=1)
    trainer = FineTuningTrainer(make_model(multi_label), arguments, data)
    trainer.train()
    assert losses(trainer).count(0.0) == 1


def train_on_ranks(folder):
    trainer = FineTuningTrainer(make_model(), make_arguments(folder, balance_classes=True), labelled())
    trainer.train()
    return weights(trainer.model), trainer.args.world_size


def train_with_a_rank_without_images(folder):
    settings = {"images_per_batch": 2, "max_steps": 24, "max_bad_images": 2}
    trainer = FineTuningTrainer(make_model(), make_arguments(folder, **settings), spoiled(labelled(), [3, 5]))
    trainer.train()
    assert trainer.seen.views == 46
    return weights(trainer.model), trainer.seen.skipped


@pytest.mark.distributed
def test_two_processes_reach_the_weights_of_one(run_on_gloo, tmp_path):
    one, _ = train_on_ranks(tmp_path / "one")
    two = run_on_gloo(train_on_ranks, tmp_path / "two", fresh=True)
    assert [world for _, world in two] == [2, 2]
    assert largest_difference(one, two[0][0]) < 1e-4


@pytest.mark.distributed
@pytest.mark.slow
def test_a_process_without_a_good_image_keeps_in_step(run_on_gloo, tmp_path):
    (one, skipped), (other, skipped_there) = run_on_gloo(train_with_a_rank_without_images, tmp_path, fresh=True)
    assert largest_difference(one, other) == 0.0
    assert skipped == skipped_there and len(skipped) == 2


def test_the_best_checkpoint_of_adapters_is_loaded(data, tmp_path):
    settings = {
        "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
        "load_best_model_at_end": True, "metric_for_best_model": "accuracy",
    }  # fmt: skip
    arguments = make_arguments(tmp_path, **settings)
    probe = ClassifierProbe(data)
    trainer = FineTuningTrainer(adapted(), arguments, data, probe=probe)
    trainer.train()
    scores = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
    assert trainer.state.best_metric == max(scores)
    assert probe(trainer.model)["accuracy"] == max(scores)


STRANGER = """
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

base = AutoModelForImageClassification.from_pretrained("encoder", num_labels=3)
model = PeftModel.from_pretrained(base, "adapter").eval()
save_file({"logits": model(load_file("pixels.safetensors")["pixels"]).logits}, "logits.safetensors")
"""


@pytest.mark.parametrize("dora", [False, True])
def test_merged_or_on_the_stock_encoder_adapters_give_the_same(data, tmp_path, dora):
    from safetensors.torch import load_file, save_file

    model = adapted(dora=dora)
    FineTuningTrainer(model, make_arguments(tmp_path / "run"), data).train()
    model.eval()
    expected = model(pixels(3)).logits
    export_encoder(make_encoder(), tmp_path / "encoder")
    save_adapter(model, tmp_path / "adapter", "me/encoder")
    assert '"base_model_name_or_path": "me/encoder"' in (tmp_path / "adapter" / "adapter_config.json").read_text()
    if dora:  # once is enough to start another Python
        save_file({"pixels": pixels(3)}, tmp_path / "pixels.safetensors")
        run_as_stranger(STRANGER, folder=tmp_path)
        torch.testing.assert_close(load_file(tmp_path / "logits.safetensors")["logits"], expected, rtol=0, atol=1e-5)
    merged = model.merge_and_unload()
    assert type(merged) is StableRepForImageClassification
    torch.testing.assert_close(merged(pixels(3)).logits, expected, rtol=0, atol=1e-5)
    assert float((expected - make_model()(pixels(3)).logits).abs().max()) > 1e-2


def test_adapters_find_the_projections_of_our_encoder_the_stock_one_and_timm_s():
    import timm

    whole = StableRepModel(tiny_config(text=True))
    stock = export_of(whole)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=2)
    for model, of_a_layer in ((whole, {"q_proj", "v_proj"}), (stock, {"q_proj", "v_proj"}), (vit, {"qkv"})):
        adapters = get_peft_model(model, lora_config(model))
        found = {name.split(".lora_A")[0] for name, _ in adapters.named_parameters() if ".lora_A" in name}
        assert {name.rpartition(".")[2] for name in found} == of_a_layer
        assert len(found) == 2 * len(of_a_layer)
        assert not any("text_model" in name for name in found)
    everything = get_peft_model(
        tiny := StableRepModel(tiny_config(text=True)), lora_config(tiny, adapter_targets="all")
    )
    names = {name for name, _ in everything.named_parameters() if ".lora_A" in name}
    assert len(names) == 2 * 6 and not any("text_model" in name for name in names)


def export_of(model):
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(**model.config.vision_config.to_dict()))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"images_per_batch": 0}, "images_per_batch=0 cannot work: give an integer from 1"),
        ({"layer_decay": 0.0}, "layer_decay=0.0"),
        ({"mixup": -1.0}, "mixup=-1.0"),
        ({"mixup": float("nan")}, "mixup=nan"),
        ({"label_smoothing_factor": 2.0}, "label_smoothing_factor=2.0"),
    ],
)
def test_arguments_that_cannot_work_are_refused(tmp_path, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        make_arguments(tmp_path, **settings)


@pytest.mark.parametrize(
    ("make_data", "sentence"),
    [
        (lambda data: data.remove_columns("label"), "no 'label'"),
        (lambda data: data.remove_columns("label").add_column("label", [None] * 48), "have no 'label'"),
        (
            lambda data: data.remove_columns("label").add_column("label", ["violet"] * 48),
            "'violet', which is not among",
        ),
        (lambda data: labelled(multi_label=True), "several labels an image"),
        (lambda data: data.remove_columns("label").add_column("label", [[0, None]] * 48), "48 of 48 images have no"),
        (lambda data: data.remove_columns("label").add_column("label", [{"a": 1}] * 48), "holds {'a': 1}"),
        (lambda data: data.filter(lambda row: row["label"] != 2), "No image is of the class 'blue'"),
        (lambda data: data.select(range(8)), "images_per_batch=16 cannot be filled from 8 images"),
    ],
)
def test_data_that_does_not_fit_is_refused(data, tmp_path, make_data, sentence):
    with pytest.raises(InputError, match=sentence):
        FineTuningTrainer(make_model(), make_arguments(tmp_path), make_data(data))


def test_one_class_is_nothing_to_tell_apart(data):
    with pytest.raises(InputError, match="nothing to tell apart"):
        classes_of(data.select(range(4)), "label")
    assert classes_of(data.select(range(8)), "label") == (["red", "green"], False)


@pytest.mark.parametrize("settings", [{"rank": 0}, {"dropout": 1.0}, {"adapter_targets": "none"}])
def test_adapters_that_cannot_be_made_are_refused(settings):
    with pytest.raises(InputError):
        lora_config(make_model(), **settings)
    with pytest.raises(InputError, match="has no layer for adapters"):
        lora_config(torch.nn.Sequential(torch.nn.Linear(2, 2)))
