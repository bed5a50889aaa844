"""A small encoder trained on the real training drawings: the eye that judges generated ones."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from stablerep_hf.losses import MultiPositiveContrastiveLoss

from . import checkpoint, pictures

CAPTIONS, SIBLINGS = 48, 4  # a batch
STEPS = 400


def new_encoder() -> nn.Sequential:
    """A plain conv net of 0.6 M parameters: (N, 3, 32, 32) in [-1, 1] to 128 features."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 64, 128, 192):
        for stride in (1, 2) if width != 32 else (2,):
            layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 128))


def jittered(x: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Change colour and contrast of each picture: siblings differ in exactly that."""
    order = torch.tensor([rng.sample(range(3), 3) if rng.random() < 0.3 else [0, 1, 2] for _ in range(len(x))])
    x = torch.gather(x, 1, order[:, :, None, None].expand_as(x))
    gain = 1 + 0.6 * (torch.rand(len(x), 3, 1, 1) - 0.5)
    gray = (torch.rand(len(x), 1, 1, 1) < 0.2).float()
    x = gray * x.mean(1, keepdim=True) + (1 - gray) * x
    return 1 - (1 - x) * gain  # white stays white


def train(pixels: torch.Tensor, rows: list[dict[str, Any]], path: Path, seed: int = 0) -> nn.Sequential:
    """Train on images of one concept as positives (cached in `path`)."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    encoder = new_encoder()
    cached = checkpoint.load(path)
    if cached is not None:
        encoder.load_state_dict(cached["encoder"])
        return encoder.eval()
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row["caption_id"], []).append(i)
    several = sorted(caption for caption, members in groups.items() if len(members) > 1)
    loss_function = MultiPositiveContrastiveLoss(temperature=0.1)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    for step in range(STEPS):
        chosen, ids = [], []
        for caption in rng.sample(several, CAPTIONS):
            members = rng.sample(groups[caption], min(SIBLINGS, len(groups[caption])))
            chosen += members
            ids += [caption] * len(members)
        size = rng.choice((52, 56, 60, 64))
        x = pictures.moved(pixels[chosen], size, rng.randint(-3, 3), rng.randint(-3, 3))
        features = F.normalize(encoder(jittered(x, rng)), dim=1)
        loss = loss_function(features, torch.tensor(ids))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print("judge", step, round(loss.item(), 3), flush=True)
    checkpoint.save(path, {"encoder": encoder.state_dict()})
    return encoder.eval()


def features(encoder: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Unit features (N, 128) of pictures (N, 3, 32, 32) in [-1, 1]."""
    with torch.inference_mode():
        return F.normalize(torch.cat([encoder(part) for part in x.split(256)]), dim=1)
