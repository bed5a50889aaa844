"""The range of every numeric flag, by its name, which means the same in every command.

What a number means beside others (a batch that the captions cannot fill) is checked where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float

    def __str__(self) -> str:
        if self.high >= _MOST:
            return f"{self.low:g} or more" + ("" if self.high > 1e9 else f", up to {self.high:,.0f}")
        return f"a number from {self.low:g} to {self.high:g}"


_MOST = 2**31 - 1
_COUNT = Range(1, _MOST)
_COUNT_OR_NONE = Range(0, _MOST)
_SHARE = Range(0, 1)
_AMOUNT = Range(0, 1e300)

_NAMES = {
    _COUNT: """
        batch_size cap captions_per_batch captions_per_shard concurrency crops_per_image dataloader_prefetch_factor
        ddp_bucket_cap_mb ddp_timeout few_shot_episodes few_shot_queries few_shot_shots few_shot_ways
        forward_chunk_size gradient_accumulation_steps height image_size image_text_dim images_per_batch
        images_per_caption jobs knn_neighbours max_images max_words most_results num_captions
        num_inference_steps num_seeds patch_size per_caption per_class per_device_eval_batch_size
        per_device_train_batch_size probe_c_values projection_dim projection_hidden_dim queue_size rank
        requests_per_minute results save_every save_total_limit sgd_epochs recall_at text_recall_at
        num_resamples shard_megabytes shots shuffle_buffer size steps stored_size target text_hidden_size
        freeze_layers held_out_captions lora_rank text_max_tokens text_num_layers
        torch_empty_cache_steps views_per_batch width eval_accumulation_steps
        """,
    _COUNT_OR_NONE: """
        data_seed dataloader_num_workers exact_below image_index index_size map_size max_bad_images
        max_failed_captions min_words num_workers
        """,
    Range(-1, _MOST): "local_rank max_steps",
    Range(0, 2**63 - 1): "caption_id seed",
    Range(0, 65535): "port",
    Range(1, 8): "claims",
    Range(0, 63): "near_bits",
    Range(-1, 1): "max_sibling_similarity min_similarity",
    Range(1, 64): "min_sibling_distance",
    _SHARE: """
        adam_beta1 adam_beta2 caption_dropout downsample_probability ema_decay label_smoothing_factor layer_decay
        max_general_loss max_unsafe min_crop_area near_duplicates probe_validation_fraction weights
        """,
    _AMOUNT: """
        adam_epsilon base_learning_rate cutmix dollars_per_hour guidance_scale learning_rate max_grad_norm mixup
        knn_temperature most_megapixels most_upload_megabytes neftune_noise_alpha num_train_epochs
        distill_feature_weight distill_similarity_weight
        dollars_per_image guidance_interval max_dollars snr_gamma source_weights temperature warmup_epochs weight_decay
        """,
    Range(0, 1e9): "eval_delay eval_steps logging_steps save_steps warmup_steps",
    Range(-1000, 1000): "lora_scale",
}
_RANGES = {name: range_ for range_, names in _NAMES.items() for name in names.split()}


def range_of(name: str) -> Range:
    """The numbers that a flag takes.

    Raises:
        KeyError: The flag has no range yet: give it one here.
    """
    return _RANGES[name]
