"""Image classification sets as arrays: loading, order of examples, statistics.

Nothing here imports TensorFlow, tensorflow-datasets or Pillow before it is needed.
"""

from kerascnn.data.arrays import DataSet, Split
from kerascnn.data.fetching import get
from kerascnn.data.folders import prepared
from kerascnn.data.importing import import_archive
from kerascnn.data.loading import load
from kerascnn.data.moments import statistics
from kerascnn.data.selection import limited, order, split

__all__ = [
    "DataSet",
    "Split",
    "get",
    "import_archive",
    "limited",
    "load",
    "order",
    "prepared",
    "split",
    "statistics",
]
