"""What runs inside Stable-Baselines3 and is of use without our commands: policies, the fast PPO, callbacks that measure."""
