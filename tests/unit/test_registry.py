"""Names that records and files hold mean one class."""

import pytest

from taut.compressors.base import Code, Compressor
from taut.errors import TautError
from taut.parametrizations import Parametrization
from taut.regularizers.base import Regularizer


@pytest.mark.parametrize("base", [Code, Compressor, Parametrization, Regularizer])
def test_another_class_of_a_known_name_is_refused(base):
    before = dict(base.registry)
    try:
        first = type("Twin", (base,), {"__module__": "one", "__qualname__": "Twin"})
        with pytest.raises(TautError, match="two classes are called Twin: in one and in other; rename one"):
            type("Twin", (base,), {"__module__": "other", "__qualname__": "Twin"})
        assert base.registry["Twin"] is first
        again = type("Twin", (base,), {"__module__": "one", "__qualname__": "Twin"})  # as when its module is reloaded
        assert base.registry["Twin"] is again
    finally:
        base.registry.clear()
        base.registry.update(before)
