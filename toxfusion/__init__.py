"""Self-supervised learning on paired histopathology and transcriptomics, to predict liver injury."""

__version__ = "0.1.0"
