"""LightningModules: thin plans of training around the networks and objectives, and the scikit-learn baselines."""
