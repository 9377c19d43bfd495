"""What an item is turned into before it is quantized: its views, each one vector per item.

Names load on first use, since each view needs heavy libraries of its own.
"""

from genrec.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
