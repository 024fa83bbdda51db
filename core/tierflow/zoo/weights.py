"""The content of the zoo's weights: uniform numbers from a seed that is made of the tensor's name.

So each tensor can be made alone, in any process, and is the same everywhere.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_CHUNK: Final = 1 << 18  # elements made at a time: what is needed beside the result stays in the processor's cache
_DRAWS: Final = 4  # 16-bit numbers in one output of the generator


@dataclass(frozen=True, slots=True)
class Weight:
    """A float32 tensor of uniform numbers in `[centre - half_width, centre + half_width)`.

    Attributes:
        name: Unique within the network.
        shape: Its dimensions.
        centre: Expected value.
        half_width: Half of the range.
        learned: Whether training would learn it; the statistics of a batch normalisation are gathered instead, and no
            publication counts them as parameters.
    """

    name: str
    shape: tuple[int, ...]
    centre: float
    half_width: float
    learned: bool = True

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Size in bytes."""
        return 4 * self.elements


def half_width_of(standard_deviation: float) -> float:
    """Half of the range of a uniform distribution with this standard deviation."""
    return math.sqrt(3.0) * standard_deviation


def content(weight: Weight, *, seed: str) -> NDArray[np.float32]:
    """The weight's elements, shape [elements], little-endian.

    Each is a signed 16-bit number of the stream of PCG64, scaled. numpy keeps the stream of a bit generator the same in
    all versions (NEP 19), which it does not promise of the methods of `Generator`.

    Args:
        weight: What is wanted.
        seed: Names the network and its version; together with the weight's name it decides the numbers.
    """
    digest = hashlib.sha256(f"{seed}\0{weight.name}".encode()).digest()
    stream = np.random.PCG64(int.from_bytes(digest[:16], "little"))
    step = np.float32(weight.half_width / 2**15)
    values: NDArray[np.float32] = np.empty(weight.elements, dtype="<f4")
    for start in range(0, weight.elements, _CHUNK):
        part = values[start : start + _CHUNK]
        draws = stream.random_raw(-(-part.size // _DRAWS)).astype("<u8", copy=False).view("<i2")
        np.multiply(draws[: part.size], step, out=part)
    if weight.centre:
        values += np.float32(weight.centre)
    return values
