"""What a trained policy does: episodes over a grid of values of a parameter, their picture, films; what it can still learn."""
