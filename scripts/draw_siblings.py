"""The README's picture: a few captions, each drawn in the style of every hand that the embedded generator knows.

python scripts/draw_siblings.py
"""

from pathlib import Path

from stablerep_hf import DiffusersGenerator, assets, caption_id
from stablerep_hf.evaluation import image_grid
from stablerep_hf.synthesis import image_seed

OUTPUT = Path(__file__).parents[1] / "model_cards" / "images" / "siblings.png"
CAPTIONS = ["grinning face", "red heart", "cat face", "red apple", "soccer ball", "rocket", "cactus", "house"]

if __name__ == "__main__":
    generator = DiffusersGenerator("embedded")
    drawn = {}
    for caption in CAPTIONS:
        prompts = [template.format(caption=caption) for template in assets.prompt_templates()]
        images = generator(prompts, [image_seed(0, caption_id(caption), k) for k in range(len(prompts))])
        drawn[caption] = [image for image in images if image is not None]
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    image_grid(drawn, cell_size=64, caption_width=140).save(OUTPUT, optimize=True)
