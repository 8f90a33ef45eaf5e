"""Keeps a network plastic: continual backpropagation, and the field's other methods, for any PyTorch model.

A package of continual-backprop.
"""

from cbp.adam import Adam as Adam
from cbp.c_chain import CChain as CChain
from cbp.continual_backprop import ContinualBackprop as ContinualBackprop
from cbp.continual_backprop import MaturingLayer as MaturingLayer
from cbp.crelu import CReLU as CReLU
from cbp.discovery.finding import find_layers as find_layers
from cbp.fire import Fire as Fire
from cbp.groups import Group as Group
from cbp.groups import HiddenLayer as HiddenLayer
from cbp.groups import LayerError as LayerError
from cbp.hare_tortoise import HareTortoise as HareTortoise
from cbp.l2_init import L2Init as L2Init
from cbp.method import METHODS as METHODS
from cbp.method import Method as Method
from cbp.names import warn_of_others
from cbp.nap import NormalizeAndProject as NormalizeAndProject
from cbp.parseval import Parseval as Parseval
from cbp.pfo import ProximalFeatures as ProximalFeatures
from cbp.redo import ReDo as ReDo
from cbp.regrama import ReGraMa as ReGraMa
from cbp.regularizer import Regularizer as Regularizer
from cbp.replacing import ReplacingMethod as ReplacingMethod
from cbp.replaying import Replaying as Replaying
from cbp.shrink_perturb import ShrinkPerturb as ShrinkPerturb
from cbp.snr import FiringLayer as FiringLayer
from cbp.snr import SelfNormalizedResets as SelfNormalizedResets
from cbp.spectral import Spectral as Spectral
from cbp.swr import SelectiveWeightReinitialization as SelectiveWeightReinitialization
from cbp.trac import Trac as Trac
from cbp.trainability import Trainability as Trainability
from cbp.units import TrackedLayer as TrackedLayer
from cbp.upgd import UPGD as UPGD
from cbp.verifying import VerifyError as VerifyError
from cbp.verifying import verify as verify

__version__ = "0.2.0"

warn_of_others()
