"""Terms of self-supervised pretraining."""
