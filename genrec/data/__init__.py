"""Where the catalogue and the histories come from, and how they become the tables of a run.

Every source is a plain function that returns `RawData`; `prepare` turns that into a split.
"""

from genrec.data.anonymous import hash_users
from genrec.data.card import POPULARITY_FILE, describe, plot_popularity
from genrec.data.demo import make_demo
from genrec.data.images import find_images, verify_images
from genrec.data.interchange import read_catalogue, read_interchange
from genrec.data.leakage import LeakageError, check_no_leakage
from genrec.data.movielens import read_movielens
from genrec.data.protocols import PROTOCOLS, ColdItems, ColdUsers, LastOut, Temporal
from genrec.data.source import RawData
from genrec.data.split import Prepared, k_core, prepare, sid_array

__all__ = [
    "POPULARITY_FILE",
    "PROTOCOLS",
    "ColdItems",
    "ColdUsers",
    "LastOut",
    "LeakageError",
    "Prepared",
    "RawData",
    "Temporal",
    "check_no_leakage",
    "describe",
    "find_images",
    "hash_users",
    "k_core",
    "make_demo",
    "plot_popularity",
    "prepare",
    "read_catalogue",
    "read_interchange",
    "read_movielens",
    "sid_array",
    "verify_images",
]
