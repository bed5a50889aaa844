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
from transformers import PreTrainedConfig, PreTrainedModel, initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput, can_return_tuple

from .backbones import encode_images, feature_size, freeze_unused, has_batch_norm, make_vision_tower
from .configuration_stablerep import StableRepConfig
from .sibling_batch_norm import SiblingBatchNorm1d
from .text_towers import encode_texts, make_text_tower


@dataclass
class StableRepOutput(ModelOutput):
    """What `StableRepModel` returns; N images, C texts.

    Attributes:
        last_hidden_state: What the vision tower returns last; of a ViT (N, 1 + patches, hidden_size) after the final
        norm, the class token first. None with `forward_chunk_size`.
        pooler_output: (N, feature_size), the feature of an image: see `BACKBONES` for how its type reads it.
        image_embeds: (N, projection_dim), for the loss between images; not normalised (the loss does that).
        image_text_embeds: (N, image_text_dim), images in the space shared with texts; not normalised. None without
        text.
        text_embeds: (C, image_text_dim), texts in that space; not normalised. None without text.
        logit_scale: Scalar, logarithm of 1 / temperature of the image-text loss. None without text.
        teacher_embeds: (N, teacher_dim), what a linear map makes of the features for distillation. None without
        `teacher_dim`.
        hidden_states: Of the vision encoder, if asked for; None with `forward_chunk_size`.
        attentions: Likewise.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    image_embeds: Tensor | None = None
    image_text_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logit_scale: Tensor | None = None
    teacher_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class StableRepProjectionHead(nn.Module):
    """Linear, norm, ReLU, Linear, norm, ReLU, Linear (StableRep/models_stablerep.py, `image_mlp`)."""

    def __init__(self, config: StableRepConfig, feature_size: int) -> None:
        super().__init__()
        hidden = config.projection_hidden_dim
        norm: type[nn.LayerNorm] | type[SiblingBatchNorm1d]
        norm = nn.LayerNorm if config.head_norm == "layer" else SiblingBatchNorm1d
        self.head_norm = config.head_norm
        self.fc1 = nn.Linear(feature_size, hidden)
        self.norm1 = norm(hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.norm2 = norm(hidden)
        self.fc3 = nn.Linear(hidden, config.projection_dim)

    def forward(self, features: Tensor, sibling_index: Tensor | None = None) -> Tensor:
        """(N, feature_size), (N,) int64 -> (N, projection_dim), not normalised."""
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
        """What turns pixels into tokens; transformers cannot tell it by itself, and FSDP2 asks; None if nothing."""
        return getattr(self.get_submodule("vision_model"), "embeddings", None)  # type: ignore[return-value]

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As transformers does it, with the names of the weights left as they are.

        For many types transformers renames weights on the way to the disk, and `Trainer`'s resume, which reads the
        file as it is, then leaves the encoder as it was. `export_encoder` writes the names that the stock class
        has on the disk.
        """
        super().save_pretrained(*args, **{"save_original_format": False, **kwargs})

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        tower = self.get_submodule("vision_model")
        if getattr(tower, "timm_model", None) is not None:  # timm has a switch of its own
            tower._set_gradient_checkpointing(enable)  # type: ignore[operator]
            if getattr(self, "text_model", None) is None:
                return
        super()._set_gradient_checkpointing(enable, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # only transformers' initialisers: they leave alone what a checkpoint has filled
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, StableRepModel) and module.config.text_config is not None:
            init.normal_(module.image_projection.weight, std=module.image_projection.in_features**-0.5)
            init.normal_(module.text_projection.weight, std=module.text_projection.in_features**-0.5)
            init.constant_(module.logit_scale, module.config.logit_scale_init_value)
        weight: Any = getattr(module, "weight", None)
        if module is getattr(self, "teacher_projection", None) and weight.shape[0] == weight.shape[1]:
            init.copy_(weight, torch.eye(len(weight)))  # a teacher that is the start is met exactly


class StableRepModel(StableRepPreTrainedModel):  # type: ignore[no-untyped-call]
    """A vision tower with the projection head of StableRep and, if configured, the text tower of StableRep+.

    `vision_model` and `text_model` are stock models of transformers, without poolers that nobody reads.

    Loss functions are apart, in `stablerep_hf.losses`: the model turns pixels and tokens into embeddings.

    In training with a batch-normalised head, `forward` and `project` are collectives over the ranks of the default
    process group (see `SiblingBatchNorm1d`).
    """

    def __init__(self, config: StableRepConfig) -> None:
        super().__init__(config)
        text: Any = config.text_config
        self.vision_model = make_vision_tower(cast(PreTrainedConfig, config.vision_config))
        features = feature_size(self.vision_model)
        self.projection_head = StableRepProjectionHead(config, features)
        self.text_model: PreTrainedModel | None = None
        # batch statistics and the scale survive no half precision: in float32 whatever dtype the rest is loaded in
        precise: set[str] = set()
        if config.head_norm != "layer":
            precise |= {f"projection_head.norm*.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
        if text is not None:
            self.text_model = make_text_tower(text)
            self.image_projection = nn.Linear(features, config.image_text_dim, bias=False)
            self.text_projection = nn.Linear(text.hidden_size, config.image_text_dim, bias=False)
            # one element, not a scalar: FSDP2 shards the first dimension and refuses parameters that have none
            self.logit_scale = nn.Parameter(torch.empty(1))
            precise.add("logit_scale")
        self._keep_in_fp32_modules_strict = precise
        if config.teacher_dim is not None:
            self.teacher_projection = nn.Linear(features, config.teacher_dim, bias=False)
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

        A contrastive loss needs all its images at once, a vision tower without batch norm does not: with
        `forward_chunk_size` the towers run that many images and texts at a time and keep their features alone; the
        head sees the whole batch, batch statistics included; and in the backward each chunk runs once more, to get
        its gradient. So the gradient is the whole batch's, for the memory of one chunk and one more forward
        (GradCache, Gao et al. 2021, cut at the backbone).

        Args:
            pixel_values: (N, channels, height, width), normalised as the encoder's image processor does.
            input_ids: (C, L) int64 tokens; C need not be N. Needs a text tower.
            attention_mask: (C, L), 1 for tokens, 0 for padding.
            sibling_index: (N,) int64, which image of its caption each is, for `head_norm="batch_per_sibling"` in
                training; elsewhere without effect. None: all images form one group.
            forward_chunk_size: Images, and texts, that a tower takes at once, at most, >= 1. None: all.
            kwargs: For the vision encoder: `interpolate_pos_encoding`, `output_hidden_states`, `output_attentions`.

        Raises:
            ValueError: Texts without a text tower, or `forward_chunk_size` with batch norm in the vision tower.
        """
        text_embeds = None

        def tower(images: Tensor) -> BaseModelOutputWithPooling:
            return encode_images(self.vision_model, images, **kwargs)

        if forward_chunk_size is None:
            vision = tower(pixel_values)
            if input_ids is not None:
                text_embeds = self.get_text_features(input_ids, attention_mask).pooler_output
        else:
            by_chunk = partial(_by_chunk, size=forward_chunk_size, in_step=isinstance(self, FSDPModule))
            self.check_chunks()
            vision = BaseModelOutputWithPooling(pooler_output=by_chunk(tower, pixel_values))
            if input_ids is not None:
                texts = (input_ids,) if attention_mask is None else (input_ids, attention_mask)
                text_embeds = by_chunk(self.get_text_features, *texts)
        features = cast(Tensor, vision.pooler_output)
        has_text = self.text_model is not None
        return StableRepOutput(
            last_hidden_state=vision.last_hidden_state,
            pooler_output=features,
            image_embeds=self.project(features, sibling_index),
            image_text_embeds=self.image_projection(features) if has_text else None,
            text_embeds=text_embeds,
            # no view: FSDP2 frees what it would look at
            logit_scale=self.logit_scale.squeeze(0).clone() if has_text else None,
            teacher_embeds=None if self.config.teacher_dim is None else self.teacher_projection(features),
            hidden_states=vision.hidden_states,
            attentions=vision.attentions,
        )

    def check_chunks(self) -> None:
        """Refuse `forward_chunk_size` where the parts of a batch would not compute what the batch does.

        Raises:
            ValueError: There is batch norm in the vision tower.
        """
        if has_batch_norm(self.vision_model):
            raise ValueError(
                f"The vision tower {type(self.vision_model).__name__} has batch normalisation, whose statistics are "
                "those of a chunk and not of the batch with `forward_chunk_size`: leave it out, or choose a backbone "
                "without batch norm."
            )

    def project(self, pooler_output: Tensor, sibling_index: Tensor | None = None) -> Tensor:
        """Run the projection head alone, so that features made in chunks meet the head as one batch.

        Args:
            pooler_output: (N, feature_size) features of images.
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
            (N, feature_size), the feature itself.
        """
        outputs = encode_images(self.vision_model, pixel_values, **kwargs)
        if self.text_model is not None:
            outputs.pooler_output = self.image_projection(outputs.pooler_output)
        return outputs

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutputWithPooling:
        """Features of texts, as `CLIPModel.get_text_features` returns them.

        Args:
            input_ids: (C, L) int64 tokens.
            attention_mask: (C, L), 1 for tokens, 0 for padding (at the end).

        Returns:
            `pooler_output`: (C, image_text_dim) in the space shared with images, not normalised. It is read as
            `text_pooling` says: at the first token `text_config.eos_token_id`, or at the last token of a text that has
            none; or from the mean of the tokens, and so on.

        Raises:
            ValueError: The model has no text tower.
        """
        if self.text_model is None:
            raise ValueError(
                "This model has no text tower, so texts have no features: set text_config when making it."
            )
        hidden, features = encode_texts(self.text_model, self.config.text_pooling, input_ids, attention_mask)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=self.text_projection(features))

    def freeze_unused(self) -> None:
        """Freeze the parameters of the vision tower that features do not depend on, such as a mask token.

        DistributedDataParallel waits for the gradient of each parameter that is not frozen.
        """
        freeze_unused(self.vision_model)

    @classmethod
    def from_backbone(
        cls, source: str, *, image_size: int | None = None, text_source: str | None = None, **options: Any
    ) -> StableRepModel:
        """Start from a pretrained vision tower, with a new projection head.

        Args:
            source: Folder or Hub id of a model of transformers (of a type in `BACKBONES`, or a dual encoder with such
                a vision tower, or a model of ours) or of timm ("timm/...", "hf-hub:...", "local-dir:...").
            image_size: Height and width in pixels to train at; position embeddings are resampled for it. None: what
                the model's own image processor prepares.
            text_source: Folder or Hub id of a pretrained text tower (CLIP's, SigLIP's, a sentence-transformers model).
                None: no text tower, or a new one of `text_config`.
            options: `image_processor` where none is beside the weights, `revision` of the source, `text_revision`,
                `trust_remote_code`; and any field of `StableRepConfig`.

        Returns:
            The model in training mode, float32, with the mean and standard deviation of the source's own image
            processor in `image_mean` and `image_std`.

        Raises:
            ValueError: No such model, a type without a known pooling, weights or an image processor missing, or an
                image size that the model cannot take.
        """
        from .pretrained import load_backbone, load_text_tower

        trusted = {"trust_remote_code": options.pop("trust_remote_code", False)}
        text_revision = options.pop("text_revision", None)
        named = {name: options.pop(name) for name in ("image_processor", "revision") if name in options}
        tower, mean, std = load_backbone(source, image_size=image_size, dtype=torch.float32, **named, **trusted)
        texts = None
        if text_source is not None:
            texts, pooling = load_text_tower(text_source, revision=text_revision, **trusted)
            options = {"text_config": texts.config, "text_pooling": pooling, **options}
        model = cls(StableRepConfig(vision_config=tower.config, image_mean=mean, image_std=std, **options))
        model.vision_model.load_state_dict(tower.state_dict())
        if texts is not None and model.text_model is not None:
            model.text_model.load_state_dict(texts.state_dict())
        model.freeze_unused()
        return model


# a loop of any length; a tower that is compiled stays so
@torch.compiler.disable(recursive=False)  # type: ignore[no-untyped-call,untyped-decorator]
def _by_chunk(tower: Callable[..., Any], *inputs: Tensor, size: int, in_step: bool) -> Tensor:
    """The tower's `pooler_output` of all rows, holding the activations of at most `size` of them at a time.

    With `in_step` all ranks call the tower equally often, as they must where its weights are cut among them, whatever
    number of rows each has.
    """
    num_chunks = max(-(-inputs[0].shape[0] // size), 1)
    if in_step:
        most = torch.tensor(num_chunks, device=inputs[0].device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        num_chunks = int(most)
    features = []
    for chunk in zip(*(rows.tensor_split(num_chunks) for rows in inputs), strict=True):
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
