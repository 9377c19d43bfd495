"""Where the catalogue and the histories come from, and how they become the tables of a run.

Every source returns `RawData`, by its settings (`read_source`) or by plain arguments (`read_files`,
...); `prepare` turns that into a split.
"""

from genrec.data.amazon import hub_files, read_amazon
from genrec.data.card import POPULARITY_FILE, describe, plot_popularity, times_in
from genrec.data.download import Downloaded, Fetched, Policy, download, fetch
from genrec.data.files import read_files
from genrec.data.images import find_images, verify_images
from genrec.data.leakage import LeakageError, check_no_leakage
from genrec.data.movielens import read_movielens
from genrec.data.protocols import ColdItems, ColdUsers, LastOut, RandomOut, Temporal
from genrec.data.recbole import read_recbole
from genrec.data.settings import ItemFile, LogFile
from genrec.data.source import RawData, hash_users, read_source
from genrec.data.split import Prepared, k_core, prepare, sid_array

__all__ = [
    "POPULARITY_FILE",
    "ColdItems",
    "ColdUsers",
    "Downloaded",
    "Fetched",
    "ItemFile",
    "LastOut",
    "LeakageError",
    "LogFile",
    "Policy",
    "Prepared",
    "RandomOut",
    "RawData",
    "Temporal",
    "check_no_leakage",
    "describe",
    "download",
    "fetch",
    "find_images",
    "hash_users",
    "hub_files",
    "k_core",
    "plot_popularity",
    "prepare",
    "read_amazon",
    "read_files",
    "read_movielens",
    "read_recbole",
    "read_source",
    "sid_array",
    "times_in",
    "verify_images",
]
