"""The built-in strategies and recipes: one file for each method. No strategy depends on a model family.

To add a strategy, write its file and import its class below.
"""

from importlib.resources import files

import tokensieve
from tokensieve import Registry, Strategy, hookimpl
from tokensieve_strategies.cdpp import CDPP as CDPP
from tokensieve_strategies.cls import CLS as CLS
from tokensieve_strategies.dart import DART as DART
from tokensieve_strategies.diversity import Diversity as Diversity
from tokensieve_strategies.divprune import DivPrune as DivPrune
from tokensieve_strategies.erank import EffectiveRank as EffectiveRank
from tokensieve_strategies.evs import EVS as EVS
from tokensieve_strategies.fastv import FastV as FastV
from tokensieve_strategies.fastvid import FastVID as FastVID
from tokensieve_strategies.feather import Feather as Feather
from tokensieve_strategies.floc import FLoC as FLoC
from tokensieve_strategies.focus import Focus as Focus
from tokensieve_strategies.gsp import GSP as GSP
from tokensieve_strategies.hiprune import HiPrune as HiPrune
from tokensieve_strategies.holitom import HoliTom as HoliTom
from tokensieve_strategies.holov import HoloV as HoloV
from tokensieve_strategies.idpruner import IDPruner as IDPruner
from tokensieve_strategies.max_attention import MaxAttention as MaxAttention
from tokensieve_strategies.mmtok import MMTok as MMTok
from tokensieve_strategies.norm import Norm as Norm
from tokensieve_strategies.otprune import OTPrune as OTPrune
from tokensieve_strategies.pixelprune import PixelPrune as PixelPrune
from tokensieve_strategies.pool import Pool as Pool
from tokensieve_strategies.prumerge import PruMerge as PruMerge
from tokensieve_strategies.prunevid import PruneVid as PruneVid
from tokensieve_strategies.qcsp import QCSP as QCSP
from tokensieve_strategies.random import Random as Random
from tokensieve_strategies.shallow import Shallow as Shallow
from tokensieve_strategies.sparsevlm import SparseVLM as SparseVLM
from tokensieve_strategies.sparsevlm_v2 import SparseVLMv2 as SparseVLMv2
from tokensieve_strategies.svdprune import SVDPrune as SVDPrune
from tokensieve_strategies.temporal import Temporal as Temporal
from tokensieve_strategies.tome import ToMe as ToMe
from tokensieve_strategies.trim import TRIM as TRIM
from tokensieve_strategies.uniform import Uniform as Uniform
from tokensieve_strategies.vidcom2 import VidCom2 as VidCom2
from tokensieve_strategies.visiontrim import VisionTrim as VisionTrim
from tokensieve_strategies.visionzip import VisionZip as VisionZip
from tokensieve_strategies.vispruner import VisPruner as VisPruner

STRATEGIES: tuple[type[Strategy], ...] = tuple(
    value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, Strategy) and value is not Strategy
)
"""All strategies imported above."""


@hookimpl
def register_strategies(registry: Registry) -> None:
    """Add every strategy, and the framework's `replay` of recorded runs."""
    for strategy in STRATEGIES:
        registry.add_strategy(strategy)
    registry.add_strategy(tokensieve.Replay)


@hookimpl
def register_recipes(registry: Registry) -> None:
    """Add every recipe in `recipes/`."""
    for file in sorted(files(__name__).joinpath("recipes").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            registry.add_recipe(file)
