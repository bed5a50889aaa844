"""Train the embedded text-to-image generator on the pictograms: stages `vae`, `unet`, `export`.

    python scripts/train_embedded_generator.py vae --minutes 12
    python scripts/train_embedded_generator.py unet --minutes 75
    python scripts/train_embedded_generator.py export

Every stage can be killed at any moment and started again: it goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from embedded_generator import autoencoder


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("vae", "unet", "export"))
    parser.add_argument("--minutes", type=float, default=12.0, help="training budget of the stage, wall clock")
    parser.add_argument("--assets", type=Path, default=Path("stablerep_hf/assets"))
    parser.add_argument("--work", type=Path, default=Path(".cache/generator"), help="checkpoints and loss logs")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.stage == "vae":
        autoencoder.train(options.assets, options.work, options.minutes)
    elif options.stage == "unet":
        from embedded_generator import denoiser

        denoiser.train(options.assets, options.work, options.minutes)
    else:
        from embedded_generator import export

        export.export(options.assets, options.work)


if __name__ == "__main__":
    main()
