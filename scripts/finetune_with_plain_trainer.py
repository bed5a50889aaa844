"""Image classification on an exported encoder with nothing but transformers, datasets and torchvision.

    python scripts/finetune_with_plain_trainer.py --encoder my-encoder --data my-labelled-images

`my-encoder` is what `stablerep train` wrote: a plain ViTModel with its image processor. `stablerep finetune` does more
(layer-wise learning rates, adapters, exact resume, intervals, a card); this shows that none of it is needed.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from torchvision.transforms import v2
from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments


def main() -> None:
    """Train and print the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--test-split", default="test")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--output", default="plain-classifier")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--max-steps", type=int, default=-1)
    options = parser.parse_args()

    train, test = (load_dataset(options.data, split=split) for split in (options.train_split, options.test_split))
    names = sorted(set(train[options.label_column]), key=str)
    label2id = {str(name): index for index, name in enumerate(names)}
    processor = AutoImageProcessor.from_pretrained(options.encoder)
    model = AutoModelForImageClassification.from_pretrained(
        options.encoder,
        num_labels=len(names),
        label2id=label2id,
        id2label={index: name for name, index in label2id.items()},
    )
    size = processor.size["height"], processor.size["width"]
    normalise = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(processor.image_mean, processor.image_std)]
    )
    views = {
        "train": v2.Compose([v2.RandomResizedCrop(size, scale=(0.5, 1.0)), v2.RandomHorizontalFlip(), normalise]),
        "test": v2.Compose([v2.Resize(size), normalise]),
    }

    def prepared(kind: str) -> Any:
        def prepare(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            return {
                "pixel_values": [views[kind](image.convert("RGB")) for image in batch["image"]],
                "labels": [label2id[str(label)] for label in batch[options.label_column]],
            }

        return prepare

    trainer = Trainer(
        model,
        TrainingArguments(
            options.output,
            num_train_epochs=options.epochs,
            max_steps=options.max_steps,
            learning_rate=3e-4,
            per_device_train_batch_size=32,
            remove_unused_columns=False,  # the images are made into pixels when they are read
            save_strategy="no",  # a stock ViT cannot be resumed by Trainer: transformers #43701
        ),
        train_dataset=train.with_transform(prepared("train")),
        eval_dataset=test.with_transform(prepared("test")),
        compute_metrics=lambda found: {"accuracy": float((np.argmax(found[0], -1) == found[1]).mean())},
    )
    trainer.train()
    print(f"accuracy on {options.test_split}: {trainer.evaluate()['eval_accuracy']:.3f}")
    trainer.save_model()
    processor.save_pretrained(options.output)


if __name__ == "__main__":
    main()
