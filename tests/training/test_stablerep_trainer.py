"""The trainer: what it learns, what it logs, what it refuses, and that interruption and processes change nothing."""

import copy
import itertools
import re

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from training_data import make_dataset, spoiled
from transformers import CLIPTextConfig, TrainerCallback, ViTConfig, set_seed

from stablerep_hf.errors import InputError
from stablerep_hf.models import StableRepConfig, StableRepModel
from stablerep_hf.training import KnnProbe, StableRepTrainer, StableRepTrainingArguments
from stablerep_hf.training.callbacks import AverageWeights
from stablerep_hf.training.checkpoints import latest_checkpoint


def make_model(text=False, head_norm="batch_per_sibling"):
    set_seed(0)
    vision = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    tower = CLIPTextConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=0, eos_token_id=39, pad_token_id=1,
    )  # fmt: skip
    config = StableRepConfig(
        vision_config=vision,
        text_config=tower if text else None,
        projection_hidden_dim=24,
        projection_dim=8,
        image_text_dim=8,
        head_norm=head_norm,
    )
    return StableRepModel(config)


def make_arguments(folder, **settings):
    defaults = {
        "captions_per_batch": 4, "images_per_caption": 3, "learning_rate": 1e-2, "max_steps": 6, "logging_steps": 2,
        "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    return StableRepTrainingArguments(output_dir=str(folder), **(defaults | settings))


def letters(texts, padding, truncation, max_length, return_tensors):
    """A tokenizer: one token a character, 39 at the end."""
    ids = [[*(2 + ord(c) % 30 for c in text[: max_length - 2]), 39] for text in texts]
    width = max(map(len, ids))
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    return {"input_ids": torch.tensor([row + [1] * (width - len(row)) for row in ids]), "attention_mask": mask}


letters.save_pretrained = lambda folder: None


class StopAfter(TrainerCallback):
    """A crash right after a step was saved."""

    def __init__(self, step):
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise RuntimeError("cut off")


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def largest_difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def losses(trainer, part="loss"):
    return [entry[part] for entry in trainer.state.log_history if part in entry]


def test_training_learns_what_siblings_share(dataset, tmp_path):
    # at temperature 1 and 12 views the loss of knowing nothing is ln 11
    trainer = StableRepTrainer(make_model(), make_arguments(tmp_path, max_steps=40, augmentation="weak"), dataset)
    before = weights(trainer.model)
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0] - 0.3
    assert largest_difference(before, weights(trainer.model)) > 0.05


@pytest.mark.parametrize("step", [2, 4])
def test_resume_goes_on_bit_for_bit(dataset, tmp_path, step):
    # 12 captions in batches of 4: three steps an epoch, so both cuts are in the middle of one
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    whole = StableRepTrainer(make_model(), make_arguments(tmp_path / "whole", **settings), dataset)
    whole.train()
    arguments = make_arguments(tmp_path / "cut", **settings)
    with pytest.raises(RuntimeError, match="cut off"):
        StableRepTrainer(make_model(), arguments, dataset, callbacks=[StopAfter(step)]).train()
    checkpoint = latest_checkpoint(tmp_path / "cut")
    assert checkpoint is not None and checkpoint.endswith(f"checkpoint-{step}")
    set_seed(99)  # a new process starts elsewhere
    resumed = StableRepTrainer(make_model(), make_arguments(tmp_path / "cut", **settings), dataset)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert largest_difference(weights(whole.model), weights(resumed.model)) == 0.0
    assert losses(resumed)[-1] == losses(whole)[-1]


class Course(TrainerCallback):
    """The weights after each step."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, model, **kwargs):
        self.steps.append(weights(model))


def test_the_average_of_the_weights_is_theirs_and_survives_an_interruption(dataset, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5, "ema_decay": 0.3}
    course = Course()
    start = weights(make_model())
    whole = StableRepTrainer(make_model(), make_arguments(tmp_path, **settings), dataset, callbacks=[course])
    whole.train()
    name = "vision_model.layers.0.mlp.fc1.weight"
    expected = start[name]
    for step, after in enumerate(course.steps, start=1):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * after[name]
    torch.testing.assert_close(whole.average.average[name], expected)
    resumed = StableRepTrainer(make_model(), make_arguments(tmp_path, **settings), dataset)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert largest_difference(whole.average.average, resumed.average.average) == 0.0
    resumed.average.load_into(model := make_model())
    assert torch.equal(weights(model)[name], whole.average.average[name])


def labelled(rows):
    """The pictures of captions 0 to 2, labelled by their caption."""
    pictures = make_dataset([6, 6, 6]).select(rows)
    return pictures.add_column("label", [caption[-1] for caption in pictures["caption"]])


@pytest.mark.parametrize("metric", [{}, {"metric_for_best_model": "eval_knn_accuracy"}])
def test_the_probe_measures_and_the_best_checkpoint_is_loaded(dataset, tmp_path, metric):
    probe = KnnProbe(labelled(range(0, 18, 2)), labelled(range(1, 18, 2)), k=2)
    settings = {
        "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 4,
        "load_best_model_at_end": True, **metric,
    }  # fmt: skip
    course = Course()
    trainer = StableRepTrainer(
        make_model(), make_arguments(tmp_path, **settings), dataset, callbacks=[course], probe=probe
    )
    by_hand = []

    class ByHand(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            assert kwargs["model"].training
            by_hand.append(probe(kwargs["model"])["knn_accuracy"])

    trainer.add_callback(ByHand())
    trainer.train()
    measured = losses(trainer, "eval_knn_accuracy")
    assert measured == by_hand and len(measured) == 2 and all(0 <= value <= 1 for value in measured)
    best = 2 if measured[0] >= measured[1] else 4
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert largest_difference(weights(trainer.model), course.steps[best - 1]) == 0.0
    assert trainer.evaluate()["eval_knn_accuracy"] == max(measured)


@pytest.mark.parametrize("best", [{"load_best_model_at_end": True}, {"save_strategy": "best"}])
@pytest.mark.parametrize("metric", ["loss", "eval_loss", "accuracy", "knn_acuracy"])
def test_what_the_probe_does_not_measure_is_refused_at_the_start(dataset, tmp_path, best, metric):
    probe = KnnProbe(labelled(range(0, 18, 2)), labelled(range(1, 18, 2)), k=2)
    settings = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, **best}
    arguments = make_arguments(tmp_path, **settings, metric_for_best_model=metric)
    with pytest.raises(InputError, match=f"metric_for_best_model={metric} is not measured.*choose knn_accuracy"):
        StableRepTrainer(make_model(), arguments, dataset, probe=probe)
    arguments = make_arguments(tmp_path, **settings)
    with pytest.raises(InputError, match="name it with `metric_for_best_model`"):
        StableRepTrainer(make_model(), arguments, dataset, probe=lambda model: {"good": 1.0})


def test_the_average_is_what_is_measured_and_the_best_one_is_what_is_left(dataset, tmp_path):
    name = "vision_model.layers.0.mlp.fc1.weight"
    scores, measured = iter([0.9, 0.1, 0.1]), []

    def probe(model):
        measured.append(weights(model)[name])
        return {"knn_accuracy": next(scores)}

    settings = {
        "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 6,
        "load_best_model_at_end": True, "metric_for_best_model": "knn_accuracy", "ema_decay": 0.9,
    }  # fmt: skip
    course = Course()
    trainer = StableRepTrainer(
        make_model(), make_arguments(tmp_path, **settings), dataset, callbacks=[course], probe=probe
    )
    trainer.train()
    averages = [load_file(tmp_path / f"checkpoint-{step}" / "ema.safetensors")[name] for step in (2, 4, 6)]
    assert all(torch.equal(*pair) for pair in zip(measured, averages, strict=True))
    assert torch.equal(weights(trainer.model)[name], course.steps[1][name]), "training went on with the weights"
    trainer.average.load_into(trainer.model)
    assert torch.equal(weights(trainer.model)[name], averages[0]) and not torch.equal(averages[0], averages[2])


def test_a_best_checkpoint_of_other_weights_is_refused(dataset, tmp_path):
    class SpoilBest(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            make_model(head_norm="layer").save_pretrained(tmp_path / f"checkpoint-{state.global_step}")

    settings = {
        "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 2,
        "load_best_model_at_end": True, "metric_for_best_model": "knn_accuracy",
    }  # fmt: skip
    probe = KnnProbe(labelled(range(0, 18, 2)), labelled(range(1, 18, 2)), k=2)
    trainer = StableRepTrainer(
        make_model(), make_arguments(tmp_path, **settings), dataset, callbacks=[SpoilBest()], probe=probe
    )
    with pytest.raises(InputError, match="another architecture"):
        trainer.train()


def test_resume_with_other_weights_is_refused(dataset, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    StableRepTrainer(make_model(), make_arguments(tmp_path, **settings), dataset).train()
    other = StableRepTrainer(make_model(head_norm="layer"), make_arguments(tmp_path, max_steps=4), dataset)
    with pytest.raises(InputError, match="another architecture"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def train_on_ranks(folder, resume, settings, norm="batch_per_sibling"):
    # float64, where a mistake in the arithmetic stands out from the rounding that batch statistics of four amplify
    model = make_model(head_norm=norm).double()
    trainer = StableRepTrainer(model, make_arguments(folder, **settings), make_dataset([4, 4, 2, 4] * 3))
    augment = trainer.augment.forward
    trainer.augment.forward = lambda pixels, color: augment(pixels, color).double()
    trainer.train(resume_from_checkpoint=resume)
    return {"weights": weights(trainer.model), "losses": losses(trainer), "processes": trainer.args.world_size}


@pytest.mark.distributed
@pytest.mark.parametrize("norm", ["batch_per_sibling", "layer"])
def test_two_processes_reach_the_weights_of_one(run_on_gloo, tmp_path, norm):
    # ragged groups too: some captions have two images where three are asked for
    one = train_on_ranks(tmp_path / "one", None, {"max_steps": 5}, norm)
    two = run_on_gloo(train_on_ranks, tmp_path / "two", None, {"max_steps": 5}, norm, fresh=True)
    assert [rank["processes"] for rank in two] == [2, 2]
    assert largest_difference(one["weights"], two[0]["weights"]) < 1e-5  # colours are float32: 1e-7 in
    assert largest_difference(two[0]["weights"], two[1]["weights"]) == 0.0
    assert two[0]["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert largest_difference(one["weights"], weights(make_model(head_norm=norm))) > 1e-3, (
        "the training must have moved"
    )


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_resume_in_the_order_of_their_epoch(run_on_gloo, tmp_path):
    # step 4 is the first of epoch 1: Trainer's own set_epoch does not reach a sampler that is wrapped twice
    settings = {"save_strategy": "steps", "save_steps": 4, "max_steps": 6}
    whole = run_on_gloo(train_on_ranks, tmp_path, None, settings, fresh=True)
    resumed = run_on_gloo(train_on_ranks, tmp_path, str(tmp_path / "checkpoint-4"), settings, fresh=True)
    assert largest_difference(whole[0]["weights"], resumed[0]["weights"]) == 0.0


@pytest.mark.parametrize("objective", ["stablerep", "stablerep+"])
def test_chunks_reach_the_weights_of_whole_batches(dataset, tmp_path, objective):
    trained = []
    for size in (None, 5):
        model = make_model(text=True).double()
        arguments = make_arguments(tmp_path, objective=objective, max_steps=4, forward_chunk_size=size)
        trainer = StableRepTrainer(model, arguments, dataset, processing_class=letters)
        augment = trainer.augment.forward
        trainer.augment.forward = lambda pixels, color, augment=augment: augment(pixels, color).double()
        trainer.train()
        trained.append(weights(model))
    assert largest_difference(*trained) < 1e-6


@pytest.mark.parametrize("size", [None, 5])
def test_a_compiled_training_is_the_plain_one_and_its_checkpoint_anyone_s(dataset, tmp_path, size):
    # traced and differentiated ahead of time, but run without a C++ compiler, which would take a minute
    compiled = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "forward_chunk_size": size}
    runs = {}
    for name, extra in (("plain", {}), ("compiled", compiled)):
        torch._dynamo.reset()
        trainer = StableRepTrainer(make_model(), make_arguments(tmp_path / name, **settings, **extra), dataset)
        trainer.train()
        runs[name] = trainer
    assert largest_difference(weights(runs["plain"].model), weights(runs["compiled"].model)) < 1e-4
    assert losses(runs["compiled"]) == pytest.approx(losses(runs["plain"]), abs=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
    checkpoint = tmp_path / "compiled" / "checkpoint-2"
    assert load_file(checkpoint / "model.safetensors").keys() == runs["plain"].model.state_dict().keys()
    resumed = StableRepTrainer(make_model(), make_arguments(tmp_path / "compiled", **settings, **compiled), dataset)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert largest_difference(weights(resumed.model), weights(runs["compiled"].model)) == 0.0


def test_bf16_trains_close_to_float32(dataset, tmp_path):
    runs = []
    for half in (False, True):
        AcceleratorState._reset_state()  # precision is the process's
        settings = {"objective": "stablerep+", "bf16": half, "learning_rate": 1e-3, "forward_chunk_size": 5}
        # batch norm over a dozen images of an untrained tower, which are nearly alike, would show the rounding alone
        model = make_model(text=True, head_norm="layer")
        trainer = StableRepTrainer(model, make_arguments(tmp_path, **settings), dataset, letters)
        trainer.train()
        assert trainer.accelerator.mixed_precision == ("bf16" if half else "no")
        assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
        runs.append(losses(trainer))
    assert runs[0] != runs[1]
    assert runs[1] == pytest.approx(runs[0], rel=0.05)


def test_tensorboard_gets_the_parts_of_the_loss_by_name(dataset, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing import event_accumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    arguments = make_arguments(tmp_path, objective="stablerep+", max_steps=4, report_to=["tensorboard"])
    trainer = StableRepTrainer(make_model(text=True), arguments, dataset, processing_class=letters)
    trainer.train()
    events = event_accumulator.EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    for part in ("loss", "image_loss", "image_text_loss", "logit_scale", "mean_positive_similarity",
                 "mean_negative_similarity", "effective_positives"):  # fmt: skip
        told = [(event.step, event.value) for event in events.Scalars(f"train/{part}")]
        logged = [entry for entry in trainer.state.log_history if part in entry]
        assert told == [(entry["step"], pytest.approx(entry[part])) for entry in logged] and len(told) == 2


def test_workers_reach_the_same_weights(dataset, tmp_path):
    alone = StableRepTrainer(make_model(), make_arguments(tmp_path, max_steps=4), dataset)
    helped = StableRepTrainer(make_model(), make_arguments(tmp_path, max_steps=4, dataloader_num_workers=2), dataset)
    alone.train()
    helped.train()
    assert largest_difference(weights(alone.model), weights(helped.model)) == 0.0


@pytest.mark.parametrize(
    ("objective", "settings", "parts", "moved", "still"),
    [
        ("stablerep", {}, {"image_loss"}, "projection_head.", "text_model."),
        ("stablerep+", {}, {"image_loss", "image_text_loss", "logit_scale"}, "text_model.", None),
        (
            "clip",
            {"images_per_caption": 1},
            {"image_text_loss", "logit_scale"},
            "text_projection",
            "projection_head.fc",
        ),
        ("simclr", {"crops_per_image": 2}, {"image_loss"}, "projection_head.", "text_model."),
        ("supcon", {"label_column": "caption"}, {"image_loss"}, "projection_head.", "text_model."),
    ],
)
def test_each_objective_trains_what_it_reaches_and_logs_its_parts(
    dataset, tmp_path, objective, settings, parts, moved, still
):
    model = make_model(text=True)
    before = weights(model)
    trainer = StableRepTrainer(
        model,
        make_arguments(tmp_path, objective=objective, max_steps=4, **settings),
        dataset,
        processing_class=letters,
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    assert parts <= logged.keys()
    assert {"image_loss", "image_text_loss", "logit_scale"} & logged.keys() == parts
    assert logged["loss"] == pytest.approx(sum(logged[part] for part in parts - {"logit_scale"}), abs=1e-4)
    after = weights(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith(moved) for name in changed)
    assert any(name.startswith("vision_model.") for name in changed)
    assert still is None or not any(name.startswith(still) for name in changed)


def test_similarities_of_the_last_batch_are_logged(dataset, tmp_path):
    trainer = StableRepTrainer(make_model(), make_arguments(tmp_path, max_steps=60, augmentation="weak"), dataset)
    trainer.train()
    first, last = trainer.state.log_history[0], trainer.state.log_history[-2]
    assert first["effective_positives"] == 2.0
    gap = [log["mean_positive_similarity"] - log["mean_negative_similarity"] for log in (first, last)]
    assert gap[1] > gap[0] + 0.2


@pytest.mark.parametrize("poison_weights", [False, True])
def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(dataset, tmp_path, poison_weights):
    class Poison(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            if state.global_step == 4:  # saved as checkpoint-4
                with torch.no_grad():
                    model.projection_head.fc3.bias.fill_(torch.nan)

    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 8}
    callbacks = [Poison()] if poison_weights else []
    trainer = StableRepTrainer(make_model(), make_arguments(tmp_path, **settings), dataset, callbacks=callbacks)
    if not poison_weights:
        criterion, calls = trainer.criterion.forward, []

        def forward(*inputs):
            calls.append(1)
            parts = criterion(*inputs)
            return parts | {"loss": parts["loss"] * (torch.nan if len(calls) == 5 else 1.0)}

        trainer.criterion.forward = forward
    stopped = r"Step 4 left weights that are not.*checkpoint-2" if poison_weights else r"loss is nan at step 5.*-4"
    with pytest.raises(InputError, match=rf"{stopped} is the last good checkpoint"):
        trainer.train()
    if not poison_weights:
        assert all(value.isfinite().all() for value in weights(trainer.model).values()), (
            "it must not reach the weights"
        )


def test_progress_counts_images_and_shows_the_loss_from_the_first_step(dataset, tmp_path, capsys):
    trainer = StableRepTrainer(make_model(), make_arguments(tmp_path, disable_tqdm=False), dataset)
    metrics = trainer.train().metrics
    out, shown = capsys.readouterr()
    lines = shown.splitlines()
    assert re.fullmatch(r"training: 12 of 72 images, .* images/s, .* left, loss \d\.\d+", lines[0])  # 4 captions x 3
    assert re.match(r"step 2 of 6: loss \d\.\d+, grad_norm", lines[1]) and not out
    assert re.match(r"training: 72 of 72 images, .*, took 0:", lines[-1])
    assert metrics["train_samples_per_second"] == pytest.approx(72 / metrics["train_runtime"], rel=0.01)


def test_throughput_counts_views_under_each_objective_and_those_of_this_run_alone(dataset, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    twice = make_arguments(tmp_path, objective="simclr", crops_per_image=2, **settings)
    metrics = StableRepTrainer(make_model(), twice, dataset).train().metrics
    assert metrics["train_samples_per_second"] == pytest.approx(4 * 8 / metrics["train_runtime"], rel=0.01)
    resumed = StableRepTrainer(make_model(), twice, dataset)
    metrics = resumed.train(str(tmp_path / "checkpoint-2")).metrics
    assert metrics["train_samples_per_second"] == pytest.approx(2 * 8 / metrics["train_runtime"], rel=0.01)
    assert resumed.seen.views == 4 * 8


def test_the_loss_of_a_step_is_the_loss_of_its_parts_by_hand(dataset, tmp_path):
    from stablerep_hf.losses import MultiPositiveContrastiveLoss

    trainer = StableRepTrainer(make_model(), make_arguments(tmp_path, temperature=0.2), dataset)
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model.train(), batch)
    pixel_values = trainer.augment(batch["pixels"], batch["color"])
    twin = copy.deepcopy(trainer.model).train()
    embeds = twin(pixel_values, sibling_index=batch["sibling_index"]).image_embeds
    torch.testing.assert_close(loss, MultiPositiveContrastiveLoss(0.2)(embeds, batch["caption_ids"]))


def test_the_logit_scale_stays_in_its_range(dataset, tmp_path):
    model = make_model(text=True)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    arguments = make_arguments(tmp_path, objective="stablerep+", max_steps=1)
    StableRepTrainer(model, arguments, dataset, processing_class=letters).train()
    assert 0 <= float(model.logit_scale.detach()) <= 4.6052


def test_biases_and_norms_are_not_decayed_but_tokens_are(dataset, tmp_path):
    trainer = StableRepTrainer(make_model(text=True), make_arguments(tmp_path), dataset)
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    names = {name for name, _ in trainer.model.named_parameters()}
    assert {n for n in names if "cls_token" in n or "position_embeddings" in n} <= decayed
    spared = names - decayed
    assert all(n.endswith("bias") or "norm" in n or n == "logit_scale" for n in spared)
    assert not any(n.endswith("bias") or "layernorm" in n for n in decayed)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"captions_per_batch": 1376, "images_per_caption": 6}, 3.225e-3),
        ({"captions_per_batch": 256, "objective": "simclr", "crops_per_image": 2}, 2e-4),
    ],
)
def test_the_learning_rate_follows_the_batch_as_in_the_release(tmp_path, settings, expected):
    arguments = make_arguments(tmp_path, base_learning_rate=2e-4, learning_rate=None, **settings)
    assert arguments.learning_rate == pytest.approx(expected, rel=1e-4)
    asked_for = make_arguments(tmp_path, base_learning_rate=2e-4, learning_rate=7e-3, **settings)
    assert asked_for.learning_rate == 7e-3, "beside the base rate of a preset too"


def test_warm_up_in_epochs(tmp_path):
    arguments = make_arguments(tmp_path, warmup_epochs=0.5, num_train_epochs=15, max_steps=-1)
    assert arguments.get_warmup_steps(3000) == 100


def test_defaults_are_the_release_s(tmp_path):
    arguments = StableRepTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (arguments.adam_beta1, arguments.adam_beta2, arguments.weight_decay) == (0.9, 0.98, 0.1)
    assert (arguments.crops_per_image, arguments.temperature) == (1, 0.1)
    assert arguments.max_grad_norm == 0
    chosen = arguments.for_data(1000, 6)
    assert (chosen.captions_per_batch, chosen.images_per_caption) == (128, 6)
    assert chosen.learning_rate == pytest.approx(2e-4 * 128 * 6 / 512), "the release's rule, not transformers' 5e-5"
    assert arguments.captions_per_batch is None, "it is a copy"
    assert arguments.warmup_steps == 0
    assert arguments.lr_scheduler_type == "cosine"
    assert arguments.accelerator_config.split_batches


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"captions_per_batch": 0}, "captions_per_batch=0"),
        ({"images_per_caption": 1}, "gives no image a positive"),
        ({"objective": "simclr"}, "crops_per_image=1 gives no view a positive"),
        ({"min_crop_area": 1.5}, "min_crop_area=1.5"),
        ({"forward_chunk_size": 0}, "forward_chunk_size=0"),
        ({"downsample_probability": 5}, "downsample_probability=5"),
        ({"ema_decay": 1.0}, "ema_decay=1.0"),
        ({"warmup_epochs": 1}, "warmup_epochs=1"),
        ({"warmup_epochs": 9, "max_steps": -1}, "warmup_epochs=9"),
        ({"fp16": True}, "fp16=True does nothing on a CPU"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 cannot work: give a number from 0 on"),
        ({"base_learning_rate": float("nan")}, "base_learning_rate=nan"),
        ({"adam_beta2": 2.0}, "adam_beta2=2.0"),
        ({"dataloader_num_workers": -1}, "dataloader_num_workers=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"max_steps": 0}, "max_steps=0 trains nothing"),
        ({"max_steps": -1, "num_train_epochs": 0}, "num_train_epochs=0 with max_steps=-1 trains nothing"),
        ({"max_steps": -1, "num_train_epochs": -2.0}, "trains nothing"),
        ({"per_device_train_batch_size": 2}, "per_device_train_batch_size=2 is not supported: .*captions_per_batch"),
        ({"resume_from_checkpoint": "runs/a"}, "resume_from_checkpoint=runs/a"),
        ({"save_only_model": True}, "save_only_model=True is not supported: training cannot go on"),
        ({"data_seed": 7}, "data_seed=7"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy=sequential"),
        ({"dataloader_drop_last": False}, "dataloader_drop_last=False"),
        ({"remove_unused_columns": True}, "remove_unused_columns=True"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size=True"),
        ({"label_smoothing_factor": 0.3}, "label_smoothing_factor=0.3"),
        ({"gradient_accumulation_steps": -1}, "gradient_accumulation_steps=-1 cannot work: give an integer from 1"),
        ({"warmup_steps": float("nan")}, "warmup_steps=nan"),
        ({"logging_steps": float("inf")}, "logging_steps=inf"),
        ({"save_steps": -3}, "save_steps=-3"),
        ({"max_steps": 10**21}, "max_steps=1000000000000000000000"),
        ({"captions_per_batch": 10**21}, "captions_per_batch=1000000000000000000000"),
        ({"gradient_accumulation_steps": 4}, "does not make a contrastive batch larger.*`forward_chunk_size`"),
    ],
)
def test_arguments_that_cannot_work_are_refused(tmp_path, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        make_arguments(tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "text", "sentence"),
    [
        ({"captions_per_batch": 13}, False, "cannot be filled from 12 captions"),
        ({"images_per_caption": 5}, False, "images_per_caption=5"),
        ({"objective": "stablerep+"}, False, "no text tower"),
        ({"objective": "clip"}, True, "no tokenizer"),
    ],
)
def test_model_and_data_that_do_not_fit_are_refused_before_a_file_is_written(
    dataset, tmp_path, settings, text, sentence
):
    folder = tmp_path / "run"
    with pytest.raises(InputError, match=sentence):
        StableRepTrainer(make_model(text=text), make_arguments(folder, **settings), dataset)
    assert not folder.exists()


def test_labels_that_are_all_different_give_no_positives(tmp_path):
    data = make_dataset([1] * 8)  # a caption of its own for each image
    settings = {"objective": "supcon", "label_column": "caption"}
    with pytest.raises(InputError, match="Each of the 8 images has a 'caption' of its own"):
        StableRepTrainer(make_model(), make_arguments(tmp_path, **settings), data)
    StableRepTrainer(make_model(), make_arguments(tmp_path, crops_per_image=2, **settings), data)


@pytest.mark.parametrize("look", [{"image_size": (16, 24)}, {"num_channels": 1}])
def test_an_encoder_that_looks_at_no_square_colour_images_is_refused(dataset, tmp_path, look):
    config = make_model().config
    for name, value in look.items():
        setattr(config.vision_config, name, value)
    with pytest.raises(InputError, match="views are square and in three colours"):
        StableRepTrainer(StableRepModel(config), make_arguments(tmp_path), dataset)


def test_a_batch_that_processes_cannot_share_is_refused(dataset, tmp_path, monkeypatch):
    arguments = make_arguments(tmp_path)
    monkeypatch.setattr(StableRepTrainingArguments, "world_size", 3)
    with pytest.raises(InputError, match="captions_per_batch=4 cannot be divided among 3 processes"):
        StableRepTrainer(make_model(), arguments, dataset)


def test_bad_images_stop_the_run_beyond_the_limit(dataset, tmp_path):
    broken = spoiled(dataset, (0, 1))
    settings = {"images_per_caption": 4, "max_steps": 3}
    StableRepTrainer(make_model(), make_arguments(tmp_path, max_bad_images=2, **settings), broken).train()
    with pytest.raises(InputError, match=r"images cannot be decoded.*thing 0.*max_bad_images=1"):
        StableRepTrainer(make_model(), make_arguments(tmp_path, max_bad_images=1, **settings), broken).train()


def test_bad_images_are_told_also_those_before_an_interruption(tmp_path, caplog):
    data = spoiled(make_dataset([4] * 12), (0, 5, 6))
    settings = {
        "images_per_caption": 4, "max_steps": 3, "max_bad_images": 3, "save_strategy": "steps", "save_steps": 1,
        "logging_steps": 1,
    }  # fmt: skip
    whole = StableRepTrainer(make_model(), make_arguments(tmp_path, **settings), data)
    whole.train()
    assert [key.partition(" (")[0] for key in whole.seen.skipped] == ["row 0", "row 5", "row 6"]
    assert "3 images could not be decoded and were skipped: row 0 (caption 'thing 0'); row 5" in caplog.text
    counts = [entry.get("bad_images", 0) for entry in whole.state.log_history if "loss" in entry]
    assert counts[-1] == 3 and counts == sorted(counts)
    assert whole.seen.views == 3 * 16 - 3
    for step, count in enumerate(counts, start=1):
        resumed = StableRepTrainer(make_model(), make_arguments(tmp_path, **settings), data)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert (resumed.seen.skipped, resumed.seen.views) == (whole.seen.skipped, 45), count
    again = StableRepTrainer(make_model(), make_arguments(tmp_path, **(settings | {"max_bad_images": 2})), data)
    with pytest.raises(InputError, match="3 images cannot be decoded"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


@pytest.mark.parametrize(("objective", "size"), [("stablerep", None), ("stablerep+", 3), ("clip", None)])
def test_a_batch_without_a_good_image_moves_nothing(tmp_path, objective, size):
    settings = {"captions_per_batch": 1, "images_per_caption": 4, "max_bad_images": 4, "max_steps": 2, "optim": "sgd"}
    data = spoiled(make_dataset([4, 4]), range(4))  # in one of the two batches of the epoch
    arguments = make_arguments(tmp_path, objective=objective, forward_chunk_size=size, weight_decay=0, **settings)
    course = Course()
    trainer = StableRepTrainer(make_model(text=True), arguments, data, processing_class=letters, callbacks=[course])
    start = weights(trainer.model)
    trainer.train()
    parameters = [name for name, _ in trainer.model.named_parameters()]
    steps = [start, *course.steps]
    moved = [
        max(float((after[name] - before[name]).abs().max()) for name in parameters)
        for before, after in itertools.pairwise(steps)
    ]
    assert min(moved) == 0.0
    if objective != "clip":  # of a single caption, where there is nothing to tell apart
        assert max(moved) > 0.0


@pytest.mark.parametrize("streamed", [False, True])
def test_a_run_that_goes_on_from_its_last_step_takes_no_more(dataset, tmp_path, streamed):
    # three steps an epoch: the fourth, and last, is in the middle of one
    data = dataset.to_iterable_dataset(num_shards=2) if streamed else dataset
    settings = {"save_strategy": "steps", "save_steps": 4, "max_steps": 4, "ema_decay": 0.3}
    whole = StableRepTrainer(make_model(), make_arguments(tmp_path, **settings), data)
    whole.train()
    again = StableRepTrainer(make_model(), make_arguments(tmp_path, **settings), data)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    assert again.seen.views == whole.seen.views == 4 * 12
    assert largest_difference(weights(whole.model), weights(again.model)) == 0.0
    assert largest_difference(whole.average.average, again.average.average) == 0.0


def test_the_average_takes_in_the_statistics_of_batch_norms(dataset, tmp_path):
    settings = {"max_steps": 3, "ema_decay": 0.3, "save_strategy": "steps", "save_steps": 3}
    course = Course()
    model = make_model()
    model.vision_model.layernorm = torch.nn.BatchNorm1d(5)  # of the tokens: four patches and the class
    start = weights(model)
    trainer = StableRepTrainer(model, make_arguments(tmp_path, **settings), dataset, callbacks=[course])
    trainer.train()
    name = "vision_model.layernorm.running_mean"
    expected = start[name]
    for step, after in enumerate(course.steps, start=1):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * after[name]
    live = weights(model)
    assert largest_difference({name: expected}, {name: live[name]}) > 1e-4
    torch.testing.assert_close(trainer.average.average[name], expected)
    with trainer.average.replacing(model):
        torch.testing.assert_close(weights(model)[name], expected)
        assert torch.equal(weights(model)[f"{name[:-4]}var"], trainer.average.average[f"{name[:-4]}var"])
    assert largest_difference(weights(model), live) == 0.0


def test_an_average_that_was_saved_without_statistics_goes_on_with_those_of_the_model(dataset, tmp_path):
    average = AverageWeights(0.9)
    model = torch.nn.BatchNorm1d(3)
    model.running_mean.fill_(2)
    save_file({"weight": torch.full((3,), 5.0), "bias": torch.ones(3)}, tmp_path / average.FILE)
    average.resumed_from = str(tmp_path)
    average.on_train_begin(None, None, None, model=model)
    assert average.average["weight"].tolist() == [5, 5, 5]
    assert average.average["running_mean"].tolist() == [2, 2, 2]
    for wrong in ({"weight": torch.ones(3)}, {"weight": torch.ones(3), "bias": torch.ones(3), "more": torch.ones(3)}):
        save_file(wrong, tmp_path / average.FILE)
        with pytest.raises(InputError, match="averages other weights"):
            average.on_train_begin(None, None, None, model=model)
