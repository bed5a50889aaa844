"""Whole text-to-image pipelines of random weights, built from configurations alone: no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def _words() -> list[str]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    return [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    # `vocab`, not `vocab_file`: transformers 5 ignores the old name and encodes every letter as unknown.
    vocabulary = {word: place for place, word in enumerate(_words())}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=32)


def _clip_text_encoder(*, projection: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(_words()),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        projection_dim=16,
        bos_token_id=len(_words()) - 2,
        eos_token_id=len(_words()) - 1,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    letters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in letters)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=64)


def _t5_encoder() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=128, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=4))


def _unet(**settings: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **{"cross_attention_dim": 16, **settings},
    )


def _vae(**settings: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=16,
        **settings,
    )


def _ddim() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=100,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def save_stable_diffusion(folder: Path, *, safety_checker: object = None) -> None:
    import torch
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_clip_text_encoder(),
        tokenizer=_clip_tokenizer(),
        unet=_unet(),
        scheduler=_ddim(),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def save_stable_diffusion_xl(folder: Path) -> None:
    """Two text encoders, the second one's pooled output and the image size as conditions."""
    import torch
    from diffusers import StableDiffusionXLPipeline

    torch.manual_seed(0)
    StableDiffusionXLPipeline(
        vae=_vae(force_upcast=False),
        text_encoder=_clip_text_encoder(),
        text_encoder_2=_clip_text_encoder(projection=True),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        unet=_unet(
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=16 + 6 * 8,
            transformer_layers_per_block=(1, 1),
            use_linear_projection=True,
        ),
        scheduler=_ddim(),
        add_watermarker=False,
    ).save_pretrained(folder)


def save_latent_consistency(folder: Path) -> None:
    """A distilled network that takes the guidance as an input and draws in a few steps."""
    import torch
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    torch.manual_seed(0)
    LatentConsistencyModelPipeline(
        vae=_vae(),
        text_encoder=_clip_text_encoder(),
        tokenizer=_clip_tokenizer(),
        unet=_unet(time_cond_proj_dim=8),
        scheduler=LCMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def save_stable_diffusion_3(folder: Path) -> None:
    """A transformer in place of the U-Net, flow matching, three text encoders."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            pos_embed_max_size=96,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip_text_encoder(projection=True),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip_text_encoder(projection=True),
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=_t5_encoder(),
        tokenizer_3=_t5_tokenizer(),
    ).save_pretrained(folder)


def save_flux(folder: Path, *, guidance: bool = False) -> None:
    """FLUX.1: schnell without guidance, dev with guidance as an input."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip_text_encoder(),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_t5_encoder(),
        tokenizer_2=_t5_tokenizer(),
    ).save_pretrained(folder)


def save_pixart(folder: Path) -> None:
    """A T5 encoder whose padding is masked."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    torch.manual_seed(0)
    PixArtAlphaPipeline(
        transformer=PixArtTransformer2DModel(
            sample_size=32,  # the smallest whose aspect ratios the pipeline knows
            patch_size=8,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            cross_attention_dim=16,
            caption_channels=32,
            use_additional_conditions=False,
        ),
        scheduler=DPMSolverMultistepScheduler(),
        vae=_vae(mid_block_add_attention=False),  # it draws 256 px at least
        text_encoder=_t5_encoder(),
        tokenizer=_t5_tokenizer(),
    ).save_pretrained(folder)


PIPELINES = {
    "stable-diffusion-xl": save_stable_diffusion_xl,
    "latent-consistency": save_latent_consistency,
    "stable-diffusion-3": save_stable_diffusion_3,
    "flux-schnell": save_flux,
    "flux-dev": lambda folder: save_flux(folder, guidance=True),
    "pixart": save_pixart,
}
