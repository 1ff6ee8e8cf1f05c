"""Training a run on one fold: stages, LightningModules, and the folder that a run leaves."""
