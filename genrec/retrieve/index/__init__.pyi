from .items import ItemIndex as ItemIndex
from .vectors import Found as Found, export_vectors as export_vectors
