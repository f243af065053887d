"""Penalties with their proximal operators: what a weight is pulled towards while it is trained.

A file put into this folder is imported with it, and its regularizers are names of this module.
"""

from importlib import import_module
from pkgutil import iter_modules

from taut.regularizers.base import Regularizer
from taut.regularizers.distance import Distance
from taut.regularizers.group_lasso import GroupLasso
from taut.regularizers.l1 import L1
from taut.regularizers.l2 import L2
from taut.regularizers.nuclear import Nuclear
from taut.regularizers.nuclear_sparse_group import NuclearSparseGroup
from taut.regularizers.sparse_group import SparseGroupLasso

__all__ = ["L1", "L2", "Distance", "GroupLasso", "Nuclear", "NuclearSparseGroup", "Regularizer", "SparseGroupLasso"]

for _file in iter_modules(__path__, f"{__name__}."):
    import_module(_file.name)
for _name, _class in Regularizer.registry.items():
    if _class.__module__.startswith(f"{__name__}.") and _name not in __all__:
        globals()[_name] = _class
        __all__ += [_name]
