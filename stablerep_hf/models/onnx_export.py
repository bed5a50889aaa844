"""Encoders as ONNX files, checked against PyTorch while they are written."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .backbones import encode_images, image_shape
from .modeling_stablerep import StableRepModel

ONNX_TOLERANCE = 1e-4
"""Largest difference between ONNX Runtime and PyTorch, relative to the largest output."""


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file and how near it comes to the model.

    Attributes:
        path: The file.
        similarity: Lowest cosine similarity of its features with PyTorch's, over random inputs, in [-1, 1].
    """

    path: Path
    similarity: float


class _Encoder(nn.Module):
    def __init__(self, vision_model: PreTrainedModel) -> None:
        super().__init__()
        self.vision_model = vision_model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        outputs: Any = encode_images(self.vision_model, pixel_values)
        return outputs.last_hidden_state, outputs.pooler_output


class _Images(nn.Module):
    def __init__(self, model: StableRepModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        features: Any = encode_images(self.model.vision_model, pixel_values).pooler_output
        return self.model.image_projection(features), features


class _Texts(nn.Module):
    def __init__(self, model: StableRepModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        outputs: Any = self.model.get_text_features(input_ids, attention_mask)
        embeds: Tensor = outputs.pooler_output
        return embeds


def export_onnx(
    model: StableRepModel | PreTrainedModel, output_dir: str | Path, *, int8: bool = False
) -> dict[str, OnnxFile]:
    """Write an encoder, or both towers of a model with text, as ONNX files.

    Files are named as Optimum and transformers.js look for them. Batch size, and the length of texts, are dynamic; the
    opset is the exporter's current one. Each file is run by ONNX Runtime on two batch sizes and compared with PyTorch.

    - ``model.onnx``: ``pixel_values`` (B, 3, S, S) to ``last_hidden_state`` (B, L, D) and ``pooler_output`` (B, D).
    - Of a model with a text tower instead ``vision_model.onnx``: ``pixel_values`` to ``image_embeds`` (B, E) in the
      space shared with texts, not normalised, and ``pooler_output``; and ``text_model.onnx``: ``input_ids``
      and ``attention_mask`` (C, T) int64 to ``text_embeds`` (C, E).

    Args:
        model: It is not changed; one in half precision is written in float32.
        output_dir: Folder to write to; made if missing.
        int8: Also write each file with weights as 8-bit integers (ONNX Runtime's dynamic quantisation of matrix
            products), as ``*_quantized.onnx``. They are smaller and, on most CPUs, faster; how much their features
            differ depends on the model, so measure them on your task.

    Returns:
        Name of each part ("model", "vision_model", "text_model", and those with "_quantized") -> its file, with the
        similarity of its features to the model's.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
        RuntimeError: A file computes something else than the model.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    # the exporter mixes precisions up, and ONNX Runtime does not know all of them
    precise: StableRepModel | PreTrainedModel = nn.Module.float(copy.deepcopy(model))
    files = {}
    for name, part, inputs in _parts(precise):
        file = _export(part, inputs, folder / f"{name}.onnx")
        examples = {name: example for name, (example, _) in inputs.items()}
        files[name] = OnnxFile(file, _similarity(part, examples, file))
        if int8:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            small = folder / f"{name}_quantized.onnx"
            quantize_dynamic(file, small, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
            files[f"{name}_quantized"] = OnnxFile(small, _similarity(part, examples, small))
    return files


def _parts(model: StableRepModel | PreTrainedModel) -> list[tuple[str, nn.Module, dict[str, Any]]]:
    """Of each file its name, the module and its inputs: name -> (example, names of its dynamic axes)."""
    vision = model.vision_model if isinstance(model, StableRepModel) else model
    pixels = {"pixel_values": (torch.randn(2, *image_shape(vision.config)), {0: "batch"})}
    if not isinstance(model, StableRepModel) or model.text_model is None:
        return [("model", _Encoder(vision), pixels)]
    text: Any = model.config.text_config
    ids = torch.randint(0, text.vocab_size, (3, 7))
    ids[:, 5] = text.eos_token_id
    axes = {0: "batch", 1: "length"}
    tokens = {"input_ids": (ids, axes), "attention_mask": (torch.ones_like(ids), axes)}
    return [("vision_model", _Images(model), pixels), ("text_model", _Texts(model), tokens)]


_OUTPUTS = {
    "model": ["last_hidden_state", "pooler_output"],
    "vision_model": ["image_embeds", "pooler_output"],
    "text_model": ["text_embeds"],
}


def _export(part: nn.Module, inputs: dict[str, Any], file: Path) -> Path:
    examples = tuple(example for example, _ in inputs.values())
    torch.onnx.export(
        part.eval(),
        examples,
        file,
        input_names=list(inputs),
        output_names=_OUTPUTS[file.stem],
        dynamic_shapes={
            name: {axis: torch.export.Dim(label) for axis, label in axes.items()} for name, (_, axes) in inputs.items()
        },
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    for count, length in ((1, 7), (5, 6)):  # batch, and length of texts
        given = [torch.cat([example] * count)[:count] for example in examples]
        given = [rows[:, :length] if rows.ndim == 2 else rows for rows in given]
        _compare(part, dict(zip(inputs, given, strict=True)), file)
    return file


@torch.no_grad()
def _run_both(part: nn.Module, inputs: dict[str, Tensor], file: Path) -> list[tuple[Tensor, Tensor]]:
    """Each output of a file as ONNX Runtime and as PyTorch computes it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    expected = part(*inputs.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    return list(zip(map(torch.from_numpy, found), expected, strict=True))


def _similarity(part: nn.Module, inputs: dict[str, Tensor], file: Path) -> float:
    """Lowest cosine similarity of a file's features with PyTorch's; they are the last output."""
    return float(torch.nn.functional.cosine_similarity(*_run_both(part, inputs, file)[-1]).min())


def _compare(part: nn.Module, inputs: dict[str, Tensor], file: Path) -> None:
    for name, (ours, theirs) in zip(_OUTPUTS[file.stem], _run_both(part, inputs, file), strict=True):
        difference = float((ours - theirs).abs().max() / theirs.abs().max())
        if not difference <= ONNX_TOLERANCE:
            raise RuntimeError(
                f"{file} computes {name} with a difference of {difference:.1e} from PyTorch, and {ONNX_TOLERANCE:.0e} "
                "is the most allowed: the exporter does not know this model; report it."
            )
