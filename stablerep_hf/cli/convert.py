"""`stablerep convert`: checkpoints of the release, of timm and of transformers into one another."""

from __future__ import annotations

from collections.abc import Sequence

from ..runs.conversion import ConversionSettings, Format, convert
from .parsing import Command

COMMAND = Command(
    "convert",
    "Convert a checkpoint of the release (.pth), of this project, of transformers or of timm.",
    [ConversionSettings],
    {
        "CHECKPOINT": "A .pth of the release, or a folder or Hub id of an encoder of transformers or timm.",
        "DIR": "Folder to write.",
    },
)

_LOADED_BY: dict[Format, str] = {
    "transformers": "transformers.AutoModel.from_pretrained('{}')",
    "timm": "timm.create_model('local-dir:{}', pretrained=True)",
    "sentence-transformers": "sentence_transformers.SentenceTransformer('{}')",
    "onnx": "onnxruntime.InferenceSession of a file in '{}/onnx'",
}


def main(argv: Sequence[str]) -> None:
    """Parse, run, say how the result is loaded."""
    source, output, settings = COMMAND.parse(argv)
    for name, similarity in convert(source, output, settings).items():
        print(f"{name}: features have a cosine similarity of at least {similarity:.4f} with the model's.")
    print(f"The checkpoint was saved to {output}: {_LOADED_BY[settings.format].format(output)}")
