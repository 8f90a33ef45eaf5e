"""What runs inside Stable-Baselines3 and is of use without our commands: policies, fast PPO and SAC, callbacks that measure."""
