"""Parts of the training of the embedded text-to-image generator."""
