"""Distillation in training: what the teacher sees, what is logged, that it anchors, that nothing is lost."""

import pytest
import torch
from test_stablerep_trainer import labelled, largest_difference, losses, make_arguments, make_model, weights
from tiny_backbones import model_on, pictures, saved, tiny_tower
from torch.nn.functional import interpolate
from training_data import make_dataset
from transformers import set_seed

from stablerep_hf.errors import InputError
from stablerep_hf.models import StableRepConfig, StableRepModel, encode_images
from stablerep_hf.training import KnnProbe, SiblingProbe, StableRepTrainer, Teacher


def teacher_of(kind="dinov2", size=32):
    return Teacher(tiny_tower(kind, **({} if size == 32 else {"image_size": size})), [0.4] * 3, [0.3] * 3)


def pupil(teacher_dim=32, kind="vit"):
    set_seed(0)
    return model_on(kind, teacher_dim=teacher_dim)


def train(folder, dataset, teacher=None, model=None, **settings):
    trainer = StableRepTrainer(
        model or pupil(),
        make_arguments(folder, **{"learning_rate": 1e-3, "logging_steps": 1, **settings}),
        dataset,
        teacher=teacher or teacher_of(),
    )
    trainer.train()
    return trainer


def test_it_sees_the_views_by_its_own_size_and_normalisation():
    teacher = teacher_of(size=64)
    images = torch.rand(3, 3, 32, 32)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    normalised = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    larger = interpolate(images, (64, 64), mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        expected = encode_images(teacher.tower, (larger - 0.4) / 0.3).pooler_output
    for chunk_size in (None, 2):
        torch.testing.assert_close(teacher(normalised, mean, std, chunk_size), expected, rtol=1e-4, atol=1e-5)
    assert teacher(normalised[:0], mean, std).shape == (0, teacher.dim)
    assert not teacher.train().tower.training and not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("objective", ["distill", "stablerep"])
def test_features_and_similarities_come_near_the_teacher_s(dataset, tmp_path, objective):
    settings = {"max_steps": 40, "captions_per_batch": 12, "distill_feature_weight": 2.0, "augmentation": "weak"}
    trainer = train(tmp_path, dataset, objective=objective, **settings)
    names = ("distill_feature_loss", "distill_similarity_loss")
    before = [losses(trainer, name)[0] for name in names]
    for name in names:  # similarities begin near the teacher's, drift off as the features move, and come back
        assert sum(losses(trainer, name)[-10:]) / 10 < 0.5 * max(losses(trainer, name))
    weighted = 2 * before[0] + before[1] + (losses(trainer, "image_loss")[0] if objective == "stablerep" else 0)
    assert losses(trainer)[0] == pytest.approx(weighted, abs=1e-4)
    assert torch.equal(
        weights(teacher_of())["tower.layernorm.weight"], weights(trainer.teacher)["tower.layernorm.weight"]
    )


def test_a_teacher_that_is_the_start_is_met_exactly_and_holds_it_there(dataset, tmp_path):
    kept = {}
    for weight in (0.0, 10.0):
        model = pupil(32)
        anchor = Teacher(tiny_tower("vit"), list(model.config.image_mean), list(model.config.image_std))
        settings = {"max_steps": 16, "learning_rate": 5e-3, "distill_feature_weight": weight}
        settings |= {"distill_similarity_weight": weight}
        trainer = train(tmp_path / str(weight), dataset, anchor, model, **settings)
        assert losses(trainer, "distill_feature_loss")[0] == pytest.approx(0, abs=1e-5)
        assert losses(trainer, "distill_similarity_loss")[0] == pytest.approx(0, abs=1e-5)
        kept[weight] = losses(trainer, "distill_similarity_loss")[-1]
    assert kept[10.0] < 0.5 * kept[0.0]


def test_chunks_and_a_resumed_run_reach_the_same_weights(dataset, tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = train(tmp_path / "whole", dataset, **settings)
    resumed = StableRepTrainer(
        pupil(), make_arguments(tmp_path / "whole", learning_rate=1e-3, logging_steps=1, **settings), dataset,
        teacher=teacher_of(),
    )  # fmt: skip
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert largest_difference(weights(whole.model), weights(resumed.model)) == 0.0
    chunked = train(tmp_path / "chunks", dataset, forward_chunk_size=5, **settings)
    assert losses(chunked) == pytest.approx(losses(whole), abs=1e-2)
    loaded = StableRepModel.from_pretrained(tmp_path / "whole" / "checkpoint-4")
    assert torch.equal(loaded.teacher_projection.weight, whole.model.teacher_projection.weight)


def train_on_ranks(folder):
    model = pupil().double()
    settings = {"max_steps": 3, "learning_rate": 1e-3}
    trainer = StableRepTrainer(
        model, make_arguments(folder, **settings), make_dataset([4, 4, 2, 4] * 3), teacher=teacher_of().double()
    )
    augment = trainer.augment.forward
    trainer.augment.forward = lambda pixels, color: augment(pixels, color).double()
    trainer.train()
    return weights(trainer.model)


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_are_taught_as_one_is(run_on_gloo, tmp_path):
    one = train_on_ranks(tmp_path / "one")
    two = run_on_gloo(train_on_ranks, tmp_path / "two", fresh=True)
    assert largest_difference(one, two[0]) < 1e-5 and largest_difference(two[0], two[1]) == 0.0


def test_what_cannot_teach_is_one_sentence(dataset, tmp_path):
    with pytest.raises(
        InputError, match="objective=distill learns nothing but a teacher's features: name a `teacher`"
    ):
        StableRepTrainer(make_model(), make_arguments(tmp_path, objective="distill"), dataset)
    with pytest.raises(InputError, match="gives 32 features, and the model has teacher_dim=None"):
        StableRepTrainer(make_model(), make_arguments(tmp_path), dataset, teacher=teacher_of())
    with pytest.raises(InputError, match="nowhere cannot be used: nowhere is neither a folder nor a repository"):
        Teacher.load("nowhere")
    with pytest.raises(InputError, match="in 1 channels, and views are square"):
        Teacher(tiny_tower("vit", num_channels=1), [0.5], [0.5])
    tower = tiny_tower("vit")
    tower.layernorm.register_forward_hook(lambda module, inputs, output: output + torch.randn_like(output))
    with pytest.raises(InputError, match="ViTModel gives other features of one image at each call"):
        Teacher(tower, [0.5] * 3, [0.5] * 3)
    with pytest.raises(InputError, match="learns nothing: give"):
        make_arguments(tmp_path, objective="distill", distill_feature_weight=0, distill_similarity_weight=0)
    with pytest.raises(ValueError, match="teacher_dim is 0"):
        StableRepConfig(teacher_dim=0)


def test_any_encoder_that_is_loaded_by_name_can_teach(tmp_path):
    for kind in ("siglip_vision_model", "timm_wrapper", "siglip2_vision_model"):
        tower = tiny_tower(kind).eval()
        teacher = Teacher.load(str(saved(tower, tmp_path / kind)))
        images = pictures(2)
        with torch.no_grad():
            expected = encode_images(tower, (images.clamp(0, 1) - 0.4) / 0.3).pooler_output
        torch.testing.assert_close(teacher(images, [0.0] * 3, [1.0] * 3), expected, rtol=1e-4, atol=1e-5)


def test_the_best_checkpoint_is_chosen_without_labels(dataset, tmp_path):
    settings = {
        "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 4,
        "load_best_model_at_end": True,
    }  # fmt: skip
    for metric in (None, "sibling_gap"):
        arguments = make_arguments(tmp_path / str(metric), metric_for_best_model=metric, **settings)
        trainer = StableRepTrainer(make_model(), arguments, dataset, probe=SiblingProbe(make_dataset([3] * 6)))
        trainer.train()
        name = f"eval_{metric or 'lidar'}"
        assert trainer.state.best_metric == max(losses(trainer, name)) and len(losses(trainer, name)) == 2
        assert all(len(losses(trainer, f"eval_{other}")) == 2 for other in SiblingProbe.measures)
        assert trainer.evaluate()[name] == pytest.approx(trainer.state.best_metric)
    with pytest.raises(InputError, match="is not measured in training: choose sibling_gap or rankme or lidar"):
        arguments = make_arguments(tmp_path, metric_for_best_model="knn_accuracy", **settings)
        StableRepTrainer(make_model(), arguments, dataset, probe=SiblingProbe(make_dataset([3] * 6)))
    with pytest.raises(InputError, match="Fewer than two of 3 captions have several images"):
        SiblingProbe(make_dataset([1, 1, 3]))
    assert KnnProbe(labelled(range(0, 18, 2)), labelled(range(1, 18, 2)), k=2).metric == "knn_accuracy"
