"""Where training images come from: folders of images or DICOM files, with class folders or a table (CSV).

`open_source` reads the listing, `prepare` the images of some of its roles, lazily: what is held in memory does not grow
with the data set.
"""

from federated_learning.data_source.examples import (
    DataSource,
    Example,
    check_disjoint_patients,
    collect_labels,
    load,
    test_roles,
    training_roles,
    validation_role,
)
from federated_learning.data_source.folders import FolderSource
from federated_learning.data_source.images import ImageArray, LazyImages, OnDemandImages
from federated_learning.data_source.preparing import Prepared, list_files, open_source, prepare
from federated_learning.data_source.table import ManifestSource

__all__ = [
    "DataSource",
    "Example",
    "FolderSource",
    "ImageArray",
    "LazyImages",
    "ManifestSource",
    "OnDemandImages",
    "Prepared",
    "check_disjoint_patients",
    "collect_labels",
    "list_files",
    "load",
    "open_source",
    "prepare",
    "test_roles",
    "training_roles",
    "validation_role",
]
