"""The life of a run of reinforcement learning: its configuration, folder, checkpoints, logs, verdict and figure."""
