"""The data sets: descriptions, download, TFRecord shards.

Importing this module imports neither TensorFlow nor NumPy: names are checked and files fetched on login nodes.
"""

from __future__ import annotations

from hpc_dl.data.description import DATASETS, Dataset, describe
from hpc_dl.data.files import fetch, is_there, prepare

__all__ = ["DATASETS", "Dataset", "describe", "fetch", "is_there", "prepare"]
