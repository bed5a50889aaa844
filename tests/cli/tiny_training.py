"""The smallest training there is."""

SETTINGS = {
    "size": "micro",
    "image_size": 16,
    "patch_size": 8,
    "projection_hidden_dim": 16,
    "projection_dim": 8,
    "captions_per_batch": 4,
    "images_per_caption": 3,
    "max_steps": 6,
    "save_steps": 2,
    "logging_steps": 1,
}
TRAIN_FLAGS = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))] + ["--use_cpu"]
