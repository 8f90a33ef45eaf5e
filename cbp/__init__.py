"""Keeps a network plastic: continual backpropagation for any PyTorch model."""

from cbp.adam import Adam
from cbp.continual_backprop import ContinualBackprop
from cbp.layers import HiddenLayer, LayerError, find_layers
from cbp.units import TrackedLayer

__all__ = ["Adam", "ContinualBackprop", "HiddenLayer", "LayerError", "TrackedLayer", "find_layers"]
__version__ = "0.1.0"
