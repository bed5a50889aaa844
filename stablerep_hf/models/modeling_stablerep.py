"""StableRep models. Travels with saved models as remote code: imports torch, transformers and sibling files only."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedModel, ViTConfig, ViTModel, initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput, can_return_tuple

from .configuration_stablerep import StableRepConfig
from .sibling_batch_norm import SiblingBatchNorm1d


@dataclass
class StableRepOutput(ModelOutput):
    """What `StableRepModel` returns; N images, C texts.

    Attributes:
        last_hidden_state: (N, 1 + patches, hidden_size), after the final norm; the class token comes first. None
        with `forward_chunk_size`.
        pooler_output: (N, hidden_size), the class token of it: the feature of an image.
        image_embeds: (N, projection_dim), for the loss between images; not normalised (the loss does that).
        image_text_embeds: (N, image_text_dim), images in the space shared with texts; not normalised. None without
        text.
        text_embeds: (C, image_text_dim), texts in that space; not normalised. None without text.
        logit_scale: Scalar, logarithm of 1 / temperature of the image-text loss. None without text.
        hidden_states: Of the vision encoder, if asked for; None with `forward_chunk_size`.
        attentions: Likewise.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    image_embeds: Tensor | None = None
    image_text_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logit_scale: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class StableRepVisionModel(ViTModel):  # type: ignore[no-untyped-call]
    """transformers' ViT whose `pooler_output` is the class token after the final norm; (N, hidden_size).

    A subclass of our own because saving the stock class renames its weights on the way to the disk, and
    `Trainer`'s resume, which reads the file as it stands, then leaves the encoder as it was. Names on the disk are
    those that transformers has used in memory since 5.9; `export_encoder` writes the stock names.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config, add_pooling_layer=False)
        self.pooler = ClassToken()  # type: ignore[assignment]

    def forward(self, pixel_values: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As `ViTModel.forward`, and of a batch without an image, too.

        A process whose images all failed to decode has such a batch. One blank image is looked at for it and left out
        of what is returned, so that each weight is in the graph, as DistributedDataParallel expects, with gradient 0.
        """
        if pixel_values.shape[0]:
            return super().forward(pixel_values, *args, **kwargs)
        outputs: Any = super().forward(pixel_values.new_zeros(1, *pixel_values.shape[1:]), *args, **kwargs)
        return type(outputs)(
            **{
                name: value[:0] if isinstance(value, Tensor) else tuple(part[:0] for part in value)
                for name, value in outputs.items()
            }
        )


class StableRepTextModel(CLIPTextModel):  # type: ignore[no-untyped-call]
    """CLIP's text tower; a subclass of our own so that no renaming on the way to the disk can reach it either."""


class ClassToken(nn.Module):
    """(N, L, D) -> (N, D): the first token. No weights."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Take the first token of each row; a copy, for a view would keep all tokens in memory."""
        return hidden_states[:, 0].contiguous()


class StableRepProjectionHead(nn.Module):
    """Linear, norm, ReLU, Linear, norm, ReLU, Linear (StableRep/models_stablerep.py, `image_mlp`)."""

    def __init__(self, config: StableRepConfig) -> None:
        super().__init__()
        vision: Any = config.vision_config
        hidden = config.projection_hidden_dim
        norm: type[nn.LayerNorm] | type[SiblingBatchNorm1d]
        norm = nn.LayerNorm if config.head_norm == "layer" else SiblingBatchNorm1d
        self.head_norm = config.head_norm
        self.fc1 = nn.Linear(vision.hidden_size, hidden)
        self.norm1 = norm(hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.norm2 = norm(hidden)
        self.fc3 = nn.Linear(hidden, config.projection_dim)

    def forward(self, features: Tensor, sibling_index: Tensor | None = None) -> Tensor:
        """(N, hidden_size), (N,) int64 -> (N, projection_dim), not normalised."""
        siblings = {"sibling_index": sibling_index} if self.head_norm == "batch_per_sibling" else {}
        hidden = torch.relu(self.norm1(self.fc1(features), **siblings))
        hidden = torch.relu(self.norm2(self.fc2(hidden), **siblings))
        embeds: Tensor = self.fc3(hidden)
        return embeds


class StableRepPreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Loading, saving and initialising, as transformers does it."""

    config_class = StableRepConfig
    base_model_prefix = "stablerep"
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means over the batch: Trainer must not scale them by items
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def get_input_embeddings(self) -> nn.Module:
        """What turns pixels into tokens; transformers cannot tell it by itself, and FSDP2 asks."""
        embeddings: nn.Module = self.get_submodule("vision_model.embeddings")
        return embeddings

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # only transformers' initialisers: they leave alone what a checkpoint has filled
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, StableRepModel) and module.config.text_config is not None:
            init.normal_(module.image_projection.weight, std=module.image_projection.in_features**-0.5)
            init.normal_(module.text_projection.weight, std=module.text_projection.in_features**-0.5)
            init.constant_(module.logit_scale, module.config.logit_scale_init_value)


class StableRepModel(StableRepPreTrainedModel):  # type: ignore[no-untyped-call]
    """A Vision Transformer with the projection head of StableRep and, if configured, the text tower of StableRep+.

    Loss functions are apart, in `stablerep_hf.losses`: the model turns pixels and tokens into embeddings.

    In training with a batch-normalised head, `forward` and `project` are collectives over the ranks of the default
    process group (see `SiblingBatchNorm1d`).
    """

    def __init__(self, config: StableRepConfig) -> None:
        super().__init__(config)
        vision, text = cast(ViTConfig, config.vision_config), cast(CLIPTextConfig | None, config.text_config)
        self.vision_model = StableRepVisionModel(vision)
        self.projection_head = StableRepProjectionHead(config)
        self.text_model: StableRepTextModel | None = None
        # batch statistics and the scale survive no half precision: in float32 whatever dtype the rest is loaded in
        precise: set[str] = set()
        if config.head_norm != "layer":
            precise |= {f"projection_head.norm*.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
        if text is not None:
            self.text_model = StableRepTextModel(text)
            self.image_projection = nn.Linear(vision.hidden_size, config.image_text_dim, bias=False)
            self.text_projection = nn.Linear(text.hidden_size, config.image_text_dim, bias=False)
            # one element, not a scalar: FSDP2 shards the first dimension and refuses parameters that have none
            self.logit_scale = nn.Parameter(torch.empty(1))
            precise.add("logit_scale")
        self._keep_in_fp32_modules_strict = precise
        self.post_init()  # type: ignore[no-untyped-call]
        # the towers name classes that they do not always have (a CLIP text tower those for images), and FSDP refuses
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = present.intersection(self._no_split_modules or ())

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        sibling_index: Tensor | None = None,
        forward_chunk_size: int | None = None,
        **kwargs: Any,
    ) -> StableRepOutput:
        """Embed images, and texts if given.

        A contrastive loss needs all its images at once, a Vision Transformer does not: with `forward_chunk_size` the
        towers run that many images and texts at a time and keep their features alone; the head sees the whole batch,
        batch statistics included; and in the backward each chunk runs once more, to get its gradient. So the gradient
        is the whole batch's, for the memory of one chunk and one more forward (GradCache, Gao et al. 2021, cut at the
        backbone).

        Args:
            pixel_values: (N, channels, height, width), normalised as the encoder's image processor does.
            input_ids: (C, L) int64 tokens; C need not be N. Needs a text tower.
            attention_mask: (C, L), 1 for tokens, 0 for padding.
            sibling_index: (N,) int64, which image of its caption each is, for `head_norm="batch_per_sibling"` in
                training; elsewhere without effect. None: all images form one group.
            forward_chunk_size: Images, and texts, that a tower takes at once, at most, >= 1. None: all.
            kwargs: For the vision encoder: `interpolate_pos_encoding`, `output_hidden_states`, `output_attentions`.

        Raises:
            ValueError: Texts without a text tower.
        """
        text_embeds = None
        if forward_chunk_size is None:
            vision = self.vision_model(pixel_values, return_dict=True, **kwargs)
            if input_ids is not None:
                text_embeds = self.get_text_features(input_ids, attention_mask).pooler_output
        else:
            by_chunk = partial(_by_chunk, size=forward_chunk_size, in_step=isinstance(self, FSDPModule))
            tower = partial(self.vision_model, return_dict=True, **kwargs)
            vision = BaseModelOutputWithPooling(pooler_output=by_chunk(tower, pixel_values))
            if input_ids is not None:
                texts = (input_ids,) if attention_mask is None else (input_ids, attention_mask)
                text_embeds = by_chunk(self.get_text_features, *texts)
        features = vision.pooler_output
        has_text = self.text_model is not None
        return StableRepOutput(
            last_hidden_state=vision.last_hidden_state,
            pooler_output=features,
            image_embeds=self.project(features, sibling_index),
            image_text_embeds=self.image_projection(features) if has_text else None,
            text_embeds=text_embeds,
            # no view: FSDP2 frees what it would look at
            logit_scale=self.logit_scale.squeeze(0).clone() if has_text else None,
            hidden_states=vision.hidden_states,
            attentions=vision.attentions,
        )

    def project(self, pooler_output: Tensor, sibling_index: Tensor | None = None) -> Tensor:
        """Run the projection head alone, so that features made in chunks meet the head as one batch.

        Args:
            pooler_output: (N, hidden_size) features of images.
            sibling_index: As in `forward`.

        Returns:
            `image_embeds`, (N, projection_dim), not normalised.
        """
        embeds: Tensor = self.projection_head(pooler_output, sibling_index)
        return embeds

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Features of images, as `CLIPModel.get_image_features` returns them.

        Args:
            pixel_values: (N, channels, height, width).
            kwargs: As in `forward`.

        Returns:
            `pooler_output`: (N, image_text_dim) in the space shared with texts, not normalised; without a text tower
            (N, hidden_size), the class token.
        """
        outputs: BaseModelOutputWithPooling = self.vision_model(pixel_values, return_dict=True, **kwargs)
        if self.text_model is not None:
            outputs.pooler_output = self.image_projection(outputs.pooler_output)
        return outputs

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutputWithPooling:
        """Features of texts, as `CLIPModel.get_text_features` returns them.

        Args:
            input_ids: (C, L) int64 tokens.
            attention_mask: (C, L), 1 for tokens, 0 for padding (at the end).

        Returns:
            `pooler_output`: (C, image_text_dim) in the space shared with images, not normalised. It is read at the
            first token `text_config.eos_token_id`, or at the last token of a text that has none.

        Raises:
            ValueError: The model has no text tower.
        """
        if self.text_model is None:
            raise ValueError(
                "This model has no text tower, so texts have no features: set text_config when making it."
            )
        outputs: BaseModelOutputWithPooling = self.text_model(input_ids, attention_mask=attention_mask)
        position = _end_of_text(input_ids, attention_mask, self.config.text_config.eos_token_id)
        hidden_states = cast(Tensor, outputs.last_hidden_state)
        pooled = hidden_states[torch.arange(hidden_states.shape[0], device=hidden_states.device), position]
        outputs.pooler_output = self.text_projection(pooled)
        return outputs


# a loop of any length; a tower that is compiled stays so
@torch.compiler.disable(recursive=False)  # type: ignore[no-untyped-call,untyped-decorator]
def _by_chunk(tower: Callable[..., Any], *inputs: Tensor, size: int, in_step: bool) -> Tensor:
    """The tower's `pooler_output` of all rows, holding the activations of at most `size` of them at a time.

    With `in_step` all ranks call the tower equally often, as they must where its weights are cut among them, whatever
    number of rows each has.
    """
    num_chunks = torch.tensor(max(-(-inputs[0].shape[0] // size), 1), device=inputs[0].device)
    if in_step:
        dist.all_reduce(num_chunks, dist.ReduceOp.MAX)
    features = []
    for chunk in zip(*(rows.tensor_split(int(num_chunks)) for rows in inputs), strict=True):
        # Autocast keeps one half-precision copy of each weight, which would sum up the gradients of all chunks in half
        # precision; a copy for each chunk leaves that sum to the weight itself.
        torch.clear_autocast_cache()
        features.append(checkpoint(lambda *rows: tower(*rows).pooler_output, *chunk, use_reentrant=False))
        if chunk[0].device.type == "cpu" and (trim := _malloc_trim()) is not None:
            # A chunk leaves the small nodes of its graph in the heap, between activations that are gone; glibc reuses
            # such holes badly and keeps them, 80 MiB a chunk of 64 images in ViT-S/16 at 96 pixels.
            trim(0)
    return torch.cat(features)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Glibc's call that gives the system back what is free within the heap; None where the C library is another."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _end_of_text(input_ids: Tensor, attention_mask: Tensor | None, eos_token_id: int) -> Tensor:
    """(C,) position of the first end-of-text token, of the last token where there is none.

    `CLIPTextModel` pools at position 0 then: with a causal mask the same feature for every text, in silence.
    Tokenizers that add no end-of-text token, or cut it off with a long text, do exist.
    """
    is_end = input_ids == eos_token_id
    if attention_mask is None:
        last = torch.full_like(input_ids[:, 0], input_ids.shape[1] - 1)
    else:
        last = attention_mask.long().sum(dim=1) - 1
    return torch.where(is_end.any(dim=1), is_end.int().argmax(dim=1), last.clamp(min=0))
