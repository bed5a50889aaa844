"""Hours of one GPU for a million captions with four images each, by arithmetic: nothing here was run on a GPU.

python scripts/throughput_on_paper.py                      # the table of the guide "On GPUs"
python scripts/throughput_on_paper.py --utilisation 0.25   # of a GPU that is less busy
"""

from __future__ import annotations

import argparse

from stablerep_hf.evaluation.tables import markdown_table

IMAGES = 4_000_000
UTILISATION = 0.4
"""Share of the peak that is assumed to be reached; not measured here."""

# TFLOP/s of dense products that are summed in float32: in bfloat16, and in float16 of the V100 and the T4, which have
# no bfloat16. Each from NVIDIA's document of that name, half of what it gives "with sparsity" where it gives that;
# compared with copies of these tables on others' pages in December 2026, all but the V100's.
PEAKS = {
    "T4": (65, "NVIDIA T4"),
    "V100": (125, "NVIDIA V100 Tensor Core GPU, SXM2"),
    "L4": (121, "NVIDIA L4 Tensor Core GPU"),
    "RTX 4090": (165, "NVIDIA Ada GPU architecture, GeForce RTX 4090"),
    "A100": (312, "NVIDIA A100 Tensor Core GPU"),
    "L40S": (362, "NVIDIA L40S"),
    "H100, H200": (989, "NVIDIA H100 and H200 Tensor Core GPU, SXM"),
    "B200": (2250, "NVIDIA HGX B200, a GPU's eighth"),
}
# TFLOP an image, two for a product and a sum. Drawing: 50 steps of the UNet with guidance, so twice each, and the VAE.
# Training: forward and backward, so three times the 17.5 GFLOP x 2 of a ViT-B/16 at 224 pixels.
WORK = {
    "drawing, SD 1.5 at 512 px": 82.8,
    "drawing, SDXL at 1024 px": 687.0,
    "training, ViT-B/16, an epoch": 0.105,
}


def hours(work: float, peak: float, utilisation: float) -> float:
    """GPU hours of all images at `work` TFLOP each."""
    return IMAGES * work / (peak * utilisation) / 3600


def table(utilisation: float = UTILISATION) -> str:
    """GPU hours by type of GPU and by kind of work, in Markdown."""
    rows = [
        ["GPU", "peak, TFLOP/s", *(f"{name} ({work:g} TFLOP)" for name, work in WORK.items()), "peak by data sheet"]
    ]
    for gpu, (peak, sheet) in PEAKS.items():
        found = [hours(work, peak, utilisation) for work in WORK.values()]
        rows.append(
            [gpu, f"{peak:,}", *(f"{value:,.0f}" if value >= 10 else f"{value:.2f}" for value in found), sheet]
        )
    return f"{markdown_table(rows)}\n\nGPU hours for {IMAGES:,} images, at {utilisation:.0%} of the peak."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utilisation", type=float, default=UTILISATION, help="share of the peak, above 0, at most 1")
    asked = parser.parse_args()
    if not 0 < asked.utilisation <= 1:
        parser.error(f"--utilisation {asked.utilisation} is no share: give a number above 0, at most 1")
    print(table(asked.utilisation))
