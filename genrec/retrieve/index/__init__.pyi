from .items import ItemIndex as ItemIndex
from .vectors import export_vectors as export_vectors
