"""The type checker that the tests apply to the package; conftest.py installs it.

It is there for the shapes of tensors. Two of numpy's types cannot be held to at run time:
`ArrayLike` refuses tuples (they have no __reversed__), and a float64 array may be of float32 in a
study of that precision, or a scalar once its last axis is summed over.
"""

from typing import Any

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype
from numpy.typing import ArrayLike, NDArray

check = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,  # an int is a fine float
        hint_overrides=FrozenDict(
            {
                ArrayLike: Any,
                ArrayLike | None: Any,
                NDArray[np.float64]: np.ndarray | np.floating,
            }
        ),
    )
)
