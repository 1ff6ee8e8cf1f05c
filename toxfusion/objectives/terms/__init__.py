"""Terms of self-supervised pretraining: one class a term, listed by ``_target_`` in conf/pretrain."""
