"""Compression methods: each a frozen ``Compressor`` and the ``Code`` it returns, one file a method.

Every module in this folder is imported, and its public compressors and codes are named here: a new file is all that a new
method needs. A module that cannot be imported raises.
"""

from importlib import import_module
from pkgutil import iter_modules

from taut.compressors.base import Code, Compressor, DenseCode, Stats, TransposedCode
from taut.compressors.chain import Chain
from taut.compressors.codebook import Codebook, CodebookCode
from taut.compressors.low_rank import LowRank, LowRankCode
from taut.compressors.prune import Prune, PruneCode
from taut.compressors.quantize import Quantize, QuantizeCode, RateQuantize

__all__ = [
    "Chain",
    "Code",
    "Codebook",
    "CodebookCode",
    "Compressor",
    "DenseCode",
    "LowRank",
    "LowRankCode",
    "Prune",
    "PruneCode",
    "Quantize",
    "QuantizeCode",
    "RateQuantize",
    "Stats",
    "TransposedCode",
]

for _module in iter_modules(__path__, f"{__name__}."):
    for _name, _value in vars(import_module(_module.name)).items():
        if isinstance(_value, type) and issubclass(_value, Code | Compressor) and _value.__module__ == _module.name:
            globals()[_name] = _value
            __all__ += [] if _name in __all__ else [_name]
