"""What an item is turned into before it is quantized: its views, each one vector per item.

Names load on first use, since each view needs heavy libraries of its own.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
