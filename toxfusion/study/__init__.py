"""The study contract on disk: tables, stores, splits, audit, and the importers that write it. No tensors."""
