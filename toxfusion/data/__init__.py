"""The study contract: what a study is on disk, how it is split, sampled and turned into batches. No models."""
