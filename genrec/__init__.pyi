from .dataset import Dataset as Dataset, DatasetRetriever as DatasetRetriever
from .pipeline import Pipeline as Pipeline

__version__: str
