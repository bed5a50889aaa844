"""How much memory a step of training takes, found without taking it."""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from ..models.backbones import can_checkpoint, has_batch_norm
from ..models.sibling_batch_norm import SiblingBatchNorm1d

if TYPE_CHECKING:
    from .image_trainer import ImageTrainer

_CHUNK = 128  # views: enough work at once for a GPU


@dataclass(frozen=True)
class StepMemory:
    """Memory of one process on its device, in bytes, in float32 or with the activations in half precision.

    Attributes:
        weights: Parameters, buffers and, with `ema_decay`, their average.
        optimizer: Two moments of each trained parameter, as AdamW keeps them.
        step: The most that a step holds beside them: views, activations, gradients.
    """

    weights: int
    optimizer: int
    step: int

    @property
    def peak(self) -> int:
        """All of it."""
        return self.weights + self.optimizer + self.step


def step_memory(
    trainer: ImageTrainer, *, forward_chunk_size: int | None = None, gradient_checkpointing: bool = False
) -> StepMemory:
    """Run a forward and a backward on fake tensors, which have shapes and no values, and count what lives at once.

    Left out are the loss, which holds little more than the embeddings, buffers of DistributedDataParallel (as much as
    the gradients), workspaces of kernels and what an allocator wastes. Weights count whole, as if FSDP cut none.

    Args:
        trainer: Made, not trained.
        forward_chunk_size: As in `StableRepTrainingArguments`.
        gradient_checkpointing: As in `transformers.TrainingArguments`.
    """
    args, fake = trainer.args, FakeTensorMode()
    views = trainer.views_per_batch // args.world_size
    model = _faked(trainer.model, fake).train()
    for module in model.modules():
        if isinstance(module, SiblingBatchNorm1d):  # its groups depend on values; plain, it holds as much
            module.eval()
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)  # type: ignore[operator]
    inputs: dict[str, Any] = {} if forward_chunk_size is None else {"forward_chunk_size": forward_chunk_size}
    dtype = torch.bfloat16 if args.bf16 else torch.float16
    size = trainer.train_dataset.image_size
    with fake, torch.autocast("cpu", dtype, enabled=bool(args.bf16 or args.fp16)), _Living(model) as living:
        pixels = torch.empty(views, 3, size, size, dtype=torch.uint8)
        inputs["pixel_values"] = pixels.float()
        collator: Any = trainer.data_collator
        if collator.tokenizer is not None:
            texts = args.groups_per_batch // args.world_size, collator.max_length
            inputs["input_ids"] = torch.zeros(texts, dtype=torch.int64)
        outputs = model(**inputs)
        learned = [leaf for leaf in tree_leaves(dict(outputs)) if isinstance(leaf, Tensor) and leaf.requires_grad]
        torch.autograd.backward([leaf.float().sum() for leaf in learned])
    parameters = list(model.parameters())
    weights = sum(map(_num_bytes, (*parameters, *model.buffers())))
    trained = sum(_num_bytes(parameter) for parameter in parameters if parameter.requires_grad)
    return StepMemory(weights if args.ema_decay is None else weights + trained, 2 * trained, living.peak)


def ways(trainer: ImageTrainer) -> dict[str, StepMemory]:
    """What a step takes as it is asked for (""), and with an argument more that takes less, by that argument.

    Empty for a backbone whose shapes depend on values, which fake tensors do not have, such as SigLIP 2.
    """
    args = trainer.args
    views = trainer.views_per_batch // args.world_size
    chunk = getattr(args, "forward_chunk_size", None)
    try:
        asked = step_memory(
            trainer, forward_chunk_size=chunk, gradient_checkpointing=bool(args.gradient_checkpointing)
        )
    except DataDependentOutputException:
        return {}
    found = {"": asked}
    tower: Any = trainer.model.vision_model
    if hasattr(args, "forward_chunk_size") and chunk is None and not has_batch_norm(tower) and views > _CHUNK:
        found[f"forward_chunk_size={_CHUNK}"] = step_memory(trainer, forward_chunk_size=_CHUNK)
    if not (args.gradient_checkpointing or chunk) and can_checkpoint(tower):
        found["gradient_checkpointing=True"] = step_memory(trainer, gradient_checkpointing=True)
    return found


def device_memory(device: torch.device) -> int | None:
    """Bytes that a GPU has; None of a CPU, whose memory others share."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


class _Living(TorchDispatchMode):
    """Counts the bytes of the storages that are made within, while they live."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._known: Any = WeakIdKeyDictionary()
        for tensor in (*model.parameters(), *model.buffers()):
            self._known[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return tree_map_only(Tensor, self._count, op(*args, **(kwargs or {})))

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known[storage] = True
            self._change(storage.nbytes())
            weakref.finalize(storage, self._change, -storage.nbytes())
        return tensor

    def _change(self, num_bytes: int) -> None:
        self._now += num_bytes
        self.peak = max(self.peak, self._now)


def _faked(model: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """A copy of a model on the CPU whose weights have no values; the model is not copied for it."""
    known: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        with fake:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
        known[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, known)


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
