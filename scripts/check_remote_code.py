"""Load the models that ship where `stablerep_hf` is not installed: what somebody with transformers alone gets.

    make check-remote-code      # in a virtual environment with the lowest transformers that the code claims

Every weight must find its place, and a text must be nearer to itself than to another in the space it is embedded in.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

ASSETS = Path(__file__).parents[1] / "stablerep_hf" / "assets"


def main() -> None:
    """Load both forms and embed something."""
    assert importlib.util.find_spec("stablerep_hf") is None, "the package is here: this shows nothing"
    torch.manual_seed(0)
    for name in ("encoder", "dual_encoder"):
        folder = ASSETS / name
        model, told = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
        wrong = {kind: keys for kind, keys in told.items() if keys}
        assert not wrong, f"{name}: {wrong}"
        picture = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
        pixels = AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            outputs = model.eval()(pixels)
        assert torch.equal(outputs.pooler_output, outputs.last_hidden_state[:, 0]), f"{name}: another pooler"
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    words = tokenizer(["a red heart", "a green apple"], padding=True, return_tensors="pt")
    with torch.no_grad():
        embeds = torch.nn.functional.normalize(model.get_text_features(**words).pooler_output)
    assert (embeds @ embeds.T)[0, 1] < 0.999, "two texts, one feature"
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: both models load whole.")


if __name__ == "__main__":
    sys.exit(main())
